package wrenn

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
)

// SearchOptions say what is searched for: files by name, lines of them by content, or both.
type SearchOptions struct {
	// Name is a glob.
	Name string
	// Content is a regular expression in the syntax of ripgrep, or text with Literal.
	Content    string
	Literal    bool
	IgnoreCase bool
	// Depth is the number of levels below the directory.
	Depth int
	// Limit is the number of matches. Default 1000.
	Limit int
	// TimeoutSec is the longest time of the search in seconds. Default 30.
	TimeoutSec int
	User       string
}

// Search are the matches of a search, as they are found.
type Search struct {
	body    io.ReadCloser
	summary *SearchMessage
}

// Search searches below a directory.
func (f *Files) Search(ctx context.Context, path string, options SearchOptions) (*Search, error) {
	body := SearchFilesRequest{
		Path: path, Name: textOrNil(options.Name), Content: textOrNil(options.Content),
		Literal: trueOrNil(options.Literal), IgnoreCase: trueOrNil(options.IgnoreCase), User: textOrNil(options.User),
		Depth: numberOrNil(options.Depth), Limit: numberOrNil(options.Limit), TimeoutSec: numberOrNil(options.TimeoutSec),
	}
	opened, err := f.client.open(ctx, f.request("search_files", body))
	if err != nil {
		return nil, err
	}
	return &Search{body: opened}, nil
}

func numberOrNil(number int) *int64 {
	if number == 0 {
		return nil
	}
	value := int64(number)
	return &value
}

// Matches iterates over the matches.
func (s *Search) Matches() iter.Seq2[SearchMessage, error] {
	return func(yield func(SearchMessage, error) bool) {
		for message, err := range jsonLines[SearchMessage](s.body) {
			if err == nil && message.Type == "end" {
				s.summary = &message
				return
			}
			if !yield(message, err) || err != nil {
				return
			}
		}
		yield(SearchMessage{}, broken(errors.New("the search broke off: there may be more matches")))
	}
}

// Close ends the search. One that is iterated over needs no call.
func (s *Search) Close() error { return s.body.Close() }

// Summary returns what was searched, and in Incomplete why there may be more matches; nil until all were read.
func (s *Search) Summary() *SearchMessage { return s.summary }

// jsonLines iterates over the JSON lines of a stream, and closes it at the end.
func jsonLines[T any](body io.ReadCloser) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		defer body.Close()
		reader := bufio.NewReader(body)
		for {
			var item T
			line, err := reader.ReadBytes('\n')
			if text := bytes.TrimSpace(line); len(text) > 0 {
				if parseErr := json.Unmarshal(text, &item); parseErr != nil {
					if err == nil || err == io.EOF {
						err = unreadable(parseErr)
					}
					yield(item, err)
					return
				}
				if !yield(item, nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(item, err)
				return
			}
		}
	}
}
