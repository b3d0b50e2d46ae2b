package wrenn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	// maxFrame is the largest frame that is accepted; the server sends far smaller ones.
	maxFrame = 4 << 20
	// silence is the time without a frame after which a connection is broken: the server sends a ping every 15 seconds.
	silence = time.Minute
)

// socket is a WebSocket to a route of the API. One goroutine may receive while others send.
type socket struct {
	conn   *websocket.Conn
	ctx    context.Context
	cancel context.CancelCauseFunc
	silent *time.Timer
	closed atomic.Bool
}

// dial connects to a route. Nothing is done on the server before the first frame, so a failure is tried again. The
// connection ends with ctx.
func (c *Client) dial(ctx context.Context, request *call) (*socket, error) {
	settings, err := c.load()
	if err != nil {
		return nil, err
	}
	address, err := addressOf(settings, request)
	if err != nil {
		return nil, err
	}
	opening := c.budget(ctx, request)
	defer opening.close()
	for attempt := 0; ; attempt++ {
		opened, err := c.dialOnce(ctx, opening, settings, address)
		if err == nil {
			return opened, nil
		}
		if opening.Err() != nil {
			return nil, contextError(opening)
		}
		pause, ok := pauseBefore(err, attempt, true)
		if !ok || attempt >= c.retries() || !opening.allows(pause) {
			return nil, err
		}
		if err := sleep(opening, pause); err != nil {
			return nil, err
		}
	}
}

func (c *Client) dialOnce(ctx, opening context.Context, settings *settings, address string) (*socket, error) {
	s := &socket{}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.silent = time.AfterFunc(silence, func() {
		s.cancel(broken(fmt.Errorf("nothing came from the server for %v", silence)))
	})
	s.silent.Stop()
	options := &websocket.DialOptions{
		HTTPClient:      c.http(),
		HTTPHeader:      http.Header{},
		CompressionMode: websocket.CompressionDisabled,
		OnPingReceived: func(context.Context, []byte) bool {
			s.silent.Reset(silence)
			return true
		},
	}
	c.setHeader(options.HTTPHeader, settings)
	conn, response, err := websocket.Dial(opening, address, options)
	if err != nil {
		s.cancel(nil)
		if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
			text, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
			return nil, errorFromAnswer(response.StatusCode, text, response.Header.Get)
		}
		described := (&dialTrace{}).describe(err)
		if errors.Is(described, ErrConnectionBroken) {
			// Before it was open nothing was asked.
			described = &Error{Code: "unreachable", Message: "no WebSocket to the server", Cause: err}
		}
		return nil, described
	}
	conn.SetReadLimit(maxFrame)
	s.conn = conn
	return s, nil
}

// receive waits for the next message; io.EOF when the connection was closed in order.
func (s *socket) receive() (websocket.MessageType, []byte, error) {
	s.silent.Reset(silence)
	kind, data, err := s.conn.Read(s.ctx)
	s.silent.Stop()
	switch {
	case err == nil:
		return kind, data, nil
	case s.ctx.Err() != nil:
		return 0, nil, contextError(s.ctx)
	case s.closed.Load(), websocket.CloseStatus(err) != -1:
		return 0, nil, io.EOF
	}
	return 0, nil, broken(err)
}

// receiveJSON waits for the next message, which is a JSON object.
func (s *socket) receiveJSON(out any) error {
	kind, data, err := s.receive()
	if err == io.EOF {
		return broken(errors.New("the stream ended before its last message: the sandbox stopped, or the server did"))
	}
	if err != nil {
		return err
	}
	if kind != websocket.MessageText {
		return unreadable(errors.New("a frame that is not text"))
	}
	if err := json.Unmarshal(data, out); err != nil {
		return unreadable(err)
	}
	return nil
}

// send sends a message, and waits while the other side does not read.
func (s *socket) send(kind websocket.MessageType, data []byte) error {
	err := s.conn.Write(s.ctx, kind, data)
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return contextError(s.ctx)
	}
	return broken(err)
}

func (s *socket) sendJSON(message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return s.send(websocket.MessageText, text)
}

// close hangs up.
func (s *socket) close() {
	if s.closed.CompareAndSwap(false, true) {
		s.silent.Stop()
		s.conn.CloseNow()
		s.cancel(broken(errors.New("the connection was closed here")))
	}
}

// closeInOrder ends a connection on which both directions have ended.
func (s *socket) closeInOrder() {
	if s.closed.CompareAndSwap(false, true) {
		s.silent.Stop()
		s.conn.Close(websocket.StatusNormalClosure, "")
		s.cancel(nil)
	}
}
