package wrenn

import (
	"context"
	"io"
	"iter"
	"net/url"
)

// Watch are the changes of a directory: every one since WatchDir returned, in order.
type Watch struct {
	socket *socket
}

// WatchDir watches a directory.
func (f *Files) WatchDir(ctx context.Context, path string, options ...FileOptions) (*Watch, error) {
	selected := firstOption(options)
	query := url.Values{"path": {path}}
	if selected.Recursive {
		query.Set("recursive", "true")
	}
	if selected.User != "" {
		query.Set("user", selected.User)
	}
	opened, err := f.client.dial(ctx, &call{operation: "watch_files", path: f.path(), query: query})
	if err != nil {
		return nil, err
	}
	var first WatchServerMessage
	if err = opened.receiveJSON(&first); err == nil && first.Type == "error" {
		err = errorFromMessage(orEmpty(first.Code), orEmpty(first.Data), nil)
	}
	if err != nil {
		opened.close()
		return nil, err
	}
	return &Watch{socket: opened}, nil
}

// Next waits for the next change; io.EOF when the watch was closed, or the directory is gone.
func (w *Watch) Next() (WatchServerMessage, error) {
	var message WatchServerMessage
	err := w.socket.receiveJSON(&message)
	switch {
	case err != nil && w.socket.closed.Load():
		return message, io.EOF
	case err != nil:
		return message, err
	case message.Type == "ended":
		w.Close()
		return message, io.EOF
	case message.Type == "error":
		w.Close()
		return message, errorFromMessage(orEmpty(message.Code), orEmpty(message.Data), nil)
	}
	return message, nil
}

// Events iterates over the changes.
func (w *Watch) Events() iter.Seq2[WatchServerMessage, error] {
	return func(yield func(WatchServerMessage, error) bool) {
		for {
			message, err := w.Next()
			if err == io.EOF || !yield(message, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the watch.
func (w *Watch) Close() error {
	w.socket.close()
	return nil
}
