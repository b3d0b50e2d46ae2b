package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/url"
	"strconv"
	"time"
)

// DiffOptions select what Diff compares.
type DiffOptions struct {
	// From is the checkpoint before. Default: the newest one.
	From string
	// To is the checkpoint after. Default: the present state.
	To string
	// Path is the directory or file to compare. Default: all of the disk.
	Path string
	// Patches adds unified diffs of texts, and hashes of other files.
	Patches bool
	// Limit is the number of changes. Default 10000.
	Limit int
	// Timeout is the longest time of the comparison. Default a minute.
	Timeout time.Duration
}

func (o *DiffOptions) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"from": o.From, "to": o.To, "path": o.Path} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if o.Patches {
		query.Set("patches", "true")
	}
	if o.Limit > 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Timeout > 0 {
		query.Set("timeout_sec", strconv.FormatInt(ceilSeconds(o.Timeout), 10))
	}
	return query
}

// DiffSummary is what was compared.
type DiffSummary struct {
	// From is the checkpoint before.
	From string `json:"from"`
	// To is the checkpoint after; empty for the present state.
	To string `json:"to"`
	// FromUnflushed: the guest did not flush its file system then. What was in its memory is not compared.
	FromUnflushed bool `json:"from_unflushed"`
	ToUnflushed   bool `json:"to_unflushed"`
	// Compared is the number of files and directories that were compared.
	Compared int64 `json:"compared"`
	// Unreadable is the number of changes that could not be read.
	Unreadable int64 `json:"unreadable"`
	// Incomplete is the reason why there may be more changes; empty where these are all.
	Incomplete string `json:"incomplete"`
}

// Diff are the files that differ at two moments, in the order of their paths.
type Diff struct {
	body    io.ReadCloser
	summary *DiffSummary
}

// Diff compares the files at two checkpoints, or at one and now.
func (s *Sandbox) Diff(ctx context.Context, options ...DiffOptions) (*Diff, error) {
	selected := firstOption(options)
	request := &call{operation: "diff_sandbox", path: s.path(), query: selected.query(), isLong: true}
	opened, err := s.client.open(ctx, request)
	if err != nil {
		return nil, err
	}
	return &Diff{body: opened}, nil
}

// Changes iterates over the files that differ.
func (d *Diff) Changes() iter.Seq2[FileDiff, error] {
	return func(yield func(FileDiff, error) bool) {
		var summary DiffSummary
		for line, err := range jsonLines[json.RawMessage](d.body) {
			var kind struct{ Type string }
			if err == nil {
				err = json.Unmarshal(line, &kind)
			}
			var change FileDiff
			switch {
			case err != nil:
			case kind.Type == "change":
				err = json.Unmarshal(line, &change)
			default:
				// Both the first line and the last one.
				err = json.Unmarshal(line, &summary)
			}
			if err != nil {
				yield(FileDiff{}, err)
				return
			}
			if kind.Type == "end" {
				d.summary = &summary
				return
			}
			if kind.Type == "change" && !yield(change, nil) {
				return
			}
		}
		yield(FileDiff{}, broken(errors.New("the comparison broke off: there may be more changes")))
	}
}

// Summary returns what was compared, and in Incomplete why there may be more changes; nil until all were read.
func (d *Diff) Summary() *DiffSummary { return d.summary }

// Close ends the comparison. One that is iterated over needs no call.
func (d *Diff) Close() error { return d.body.Close() }
