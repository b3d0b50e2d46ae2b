package wrenn

import (
	"context"
	"encoding/base64"
)

// maxInput is the number of bytes of input in one frame; small enough that no limit of the server is near.
const maxInput = 32 << 10

// execConnection is a command on a WebSocket of its own, with which it ends.
type execConnection struct {
	client    *Client
	sandboxID string
	socket    *socket
	process   int
}

// startExec starts a command and waits until it runs. It ends with ctx.
func (c *Client) startExec(ctx context.Context, sandboxID string, start map[string]any) (*execConnection, error) {
	request := &call{operation: "exec_stream", path: map[string]string{"id": sandboxID}}
	opened, err := c.dial(ctx, request)
	if err != nil {
		return nil, err
	}
	opening := c.budget(ctx, request)
	defer opening.close()
	stop := context.AfterFunc(opening, func() { opened.cancel(contextError(opening)) })
	defer stop()
	start["type"] = "start"
	start["encoding"] = EncodingBase64
	var first ExecServerMessage
	if err = opened.sendJSON(start); err == nil {
		err = opened.receiveJSON(&first)
	}
	if err == nil && first.Type == "error" {
		err = execError(&first)
	}
	if err != nil {
		opened.close()
		return nil, err
	}
	connection := &execConnection{client: c, sandboxID: sandboxID, socket: opened}
	if first.PID != nil {
		connection.process = int(*first.PID)
	}
	return connection, nil
}

func (e *execConnection) pid() int   { return e.process }
func (e *execConnection) id() string { return "" }

func (e *execConnection) next() (Output, *int, error) {
	for {
		var message ExecServerMessage
		if err := e.socket.receiveJSON(&message); err != nil {
			return Output{}, nil, err
		}
		switch message.Type {
		case "stdout", "stderr":
			output, err := decodeOutput(message.Type, message.Data)
			return output, nil, err
		case "exit":
			return Output{}, toInt(message.ExitCode), nil
		case "error":
			e.socket.close()
			return Output{}, nil, execError(&message)
		}
	}
}

func (e *execConnection) signal(ctx context.Context, signal ProcessSignal) error {
	return e.client.json(ctx, &call{
		operation: "signal_exec",
		path:      map[string]string{"id": e.sandboxID},
		body:      SignalRequest{PID: int64(e.process), Signal: signal},
	}, nil)
}

func (e *execConnection) write(_ context.Context, data []byte) error {
	for len(data) > 0 {
		part := data[:min(len(data), maxInput)]
		data = data[len(part):]
		text := base64.StdEncoding.EncodeToString(part)
		if err := e.socket.sendJSON(map[string]any{"type": "stdin", "data": text, "encoding": EncodingBase64}); err != nil {
			return err
		}
	}
	return nil
}

func (e *execConnection) closeInput(context.Context) error {
	return e.socket.sendJSON(map[string]any{"type": "stdin_close"})
}

func (e *execConnection) resize(_ context.Context, size TerminalSize) error {
	return e.socket.sendJSON(map[string]any{"type": "resize", "size": size})
}

func (e *execConnection) disconnect() { e.socket.close() }

func execError(message *ExecServerMessage) error {
	return errorFromMessage(orEmpty(message.Code), orEmpty(message.Data), message.ExitCode)
}

func decodeOutput(kind string, data *string) (Output, error) {
	decoded, err := base64.StdEncoding.DecodeString(orEmpty(data))
	if err != nil {
		return Output{}, unreadable(err)
	}
	return Output{Stream: Stream(kind), Data: decoded}, nil
}

func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func toInt(value *int64) *int {
	code := 0
	if value != nil {
		code = int(*value)
	}
	return &code
}
