package wrenn

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Events are the events of the team.
type Events struct {
	client *Client
}

// EventFilter selects events.
type EventFilter struct {
	// Cursor of an event: what comes behind it.
	Cursor string
	// Types, such as sandbox.*.
	Types []string
	// Sandbox is the id of one.
	Sandbox string
	// Since is the time of the oldest one.
	Since time.Time
	// Limit is the number of events of List. Default: all.
	Limit int
}

func (f *EventFilter) query() url.Values {
	query := url.Values{}
	if len(f.Types) > 0 {
		query.Set("type", strings.Join(f.Types, ","))
	}
	if f.Sandbox != "" {
		query.Set("sandbox", f.Sandbox)
	}
	if !f.Since.IsZero() {
		query.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	return query
}

// List lists events, oldest first, page after page.
func (e *Events) List(ctx context.Context, filters ...EventFilter) iter.Seq2[Event, error] {
	filter := firstOption(filters)
	return func(yield func(Event, error) bool) {
		left, cursor := filter.Limit, filter.Cursor
		for {
			size := pageSize
			if filter.Limit > 0 {
				size = min(size, left)
			}
			query := filter.query()
			query.Set("limit", strconv.Itoa(size))
			if cursor != "" {
				query.Set("cursor", cursor)
			}
			var events []Event
			header, err := e.client.page(ctx, &call{operation: "list_events", query: query}, &events)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, event := range events {
				if !yield(event, nil) {
					return
				}
			}
			left -= len(events)
			cursor = header.Get("X-Next-Cursor")
			if len(events) < size || cursor == "" || (filter.Limit > 0 && left <= 0) {
				return
			}
		}
	}
}

// EventStream are events as they come, over as many connections as it takes; none is missed.
type EventStream struct {
	client *Client
	filter EventFilter
	ctx    context.Context
	cancel context.CancelFunc
	body   io.ReadCloser
	reader *bufio.Reader
	cursor string
	closed atomic.Bool

	patience patience
	// silence is the time without a byte after which a connection is broken.
	silence time.Duration
}

// Stream follows events: those behind Cursor, or all that happen after this call has returned. It ends with ctx.
func (e *Events) Stream(ctx context.Context, filters ...EventFilter) (*EventStream, error) {
	stream := &EventStream{client: e.client, filter: firstOption(filters), silence: silence}
	stream.cursor = stream.filter.Cursor
	stream.patience.limit = e.client.patience
	stream.ctx, stream.cancel = context.WithCancel(ctx)
	if err := stream.connect(); err != nil {
		stream.cancel()
		return nil, err
	}
	return stream, nil
}

// Cursor returns the cursor up to which all has come; empty before the first message of the server.
func (s *EventStream) Cursor() string { return s.cursor }

func (s *EventStream) connect() error {
	query := s.filter.query()
	header := http.Header{}
	if s.cursor != "" {
		query.Del("since")
		header.Set("Last-Event-Id", s.cursor)
	}
	request := &call{operation: "stream_events", query: query, header: header, silence: s.silence}
	opened, err := s.client.open(s.ctx, request)
	if err != nil {
		return err
	}
	s.body, s.reader = opened, bufio.NewReader(opened)
	return nil
}

// Next waits for the next event; io.EOF when the stream was closed.
func (s *EventStream) Next() (Event, error) {
	for {
		var err error
		if s.body == nil {
			err = s.connect()
		}
		if err == nil {
			var event Event
			if event, err = s.readEvent(); err == nil {
				s.patience.progressed()
				return event, nil
			}
		}
		if s.ctx.Err() != nil {
			return Event{}, s.doneError()
		}
		if err == io.EOF {
			err = broken(errors.New("the stream of events ended"))
		}
		if !isTransientAnswer(err) {
			return Event{}, err
		}
		if s.body != nil {
			s.body.Close()
			s.body = nil
		}
		if err := s.patience.wait(s.ctx, err); err != nil {
			if s.ctx.Err() != nil {
				return Event{}, s.doneError()
			}
			return Event{}, err
		}
	}
}

// doneError returns io.EOF for a stream that was closed here, and the error of the context otherwise.
func (s *EventStream) doneError() error {
	if s.closed.Load() {
		return io.EOF
	}
	return contextError(s.ctx)
}

// readEvent reads one event by the rules of server-sent events.
func (s *EventStream) readEvent() (Event, error) {
	var kind, data, id string
	for {
		line, err := s.reader.ReadString('\n')
		if err != nil {
			return Event{}, err
		}
		s.patience.connected()
		line = strings.TrimRight(line, "\r\n")
		if line != "" {
			field, value, _ := strings.Cut(line, ":")
			value = strings.TrimPrefix(value, " ")
			switch field {
			case "event":
				kind = value
			case "data":
				data += value
			case "id":
				id = value
			}
			continue
		}
		// Only now: an event that breaks off is asked for again.
		s.cursor = firstOf(id, s.cursor)
		if data == "" {
			kind, id = "", ""
			continue
		}
		return parseEvent(kind, data)
	}
}

func parseEvent(kind, data string) (Event, error) {
	if kind == "error" {
		var body ErrorBody
		if err := json.Unmarshal([]byte(data), &body); err != nil {
			return Event{}, unreadable(err)
		}
		return Event{}, errorFromMessage(body.Error.Code, body.Error.Message, nil)
	}
	var event Event
	if err := json.Unmarshal([]byte(data), &event); err != nil {
		return Event{}, unreadable(err)
	}
	return event, nil
}

// All iterates over the events.
func (s *EventStream) All() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := s.Next()
			if err == io.EOF || !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the stream.
func (s *EventStream) Close() error {
	s.closed.Store(true)
	s.cancel()
	return nil
}
