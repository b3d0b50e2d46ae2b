package wrenn

import (
	"bytes"
	"context"
	"io"
	"net/url"
	"strconv"
	"sync"
)

// maxStdin is the number of bytes of input in one request, of which the server takes 1 MiB.
const maxStdin = 512 << 10

// ConnectOptions say where to begin to read.
type ConnectOptions struct {
	// Offset of the first byte. Default 0: all that is kept.
	Offset int64
	// TailBytes, instead of Offset: begin so many bytes before the end.
	TailBytes int64
}

// attachConnection is a background command that output is read of, over as many connections as it takes. One that
// breaks is made again at the offset behind the last frame.
type attachConnection struct {
	client    *Client
	ctx       context.Context
	cancel    context.CancelFunc
	sandboxID string
	start     ConnectOptions
	command   string
	process   int
	patience  patience
	// offset is that behind the last byte that was read; absent before the first frame.
	offset *int64

	mutex   sync.Mutex
	socket  *socket
	hasLeft bool
}

func (c *Client) newAttach(ctx context.Context, sandboxID, command string, start ConnectOptions) *attachConnection {
	a := &attachConnection{client: c, sandboxID: sandboxID, start: start, command: command}
	a.patience.limit = c.patience
	a.ctx, a.cancel = context.WithCancel(ctx)
	return a
}

// attach follows a command, by id, name or pid.
func (c *Client) attach(ctx context.Context, sandboxID, command string, start ConnectOptions) (*attachConnection, error) {
	a := c.newAttach(ctx, sandboxID, command, start)
	if _, err := a.connect(); err != nil {
		a.cancel()
		return nil, err
	}
	return a, nil
}

// attachStarted follows a command that was started. If no connection can be made now, next makes one: the command
// runs, and its id must not be lost.
func (c *Client) attachStarted(ctx context.Context, sandboxID string, info *CommandInfo) *attachConnection {
	a := c.newAttach(ctx, sandboxID, info.ID, ConnectOptions{})
	a.process = int(info.PID)
	_, _ = a.connect()
	return a
}

func (a *attachConnection) pid() int   { return a.process }
func (a *attachConnection) id() string { return a.command }

func (a *attachConnection) connect() (*socket, error) {
	query := url.Values{"encoding": {string(EncodingBase64)}}
	switch {
	case a.offset != nil:
		query.Set("offset", strconv.FormatInt(*a.offset, 10))
	case a.start.TailBytes > 0:
		query.Set("tail_bytes", strconv.FormatInt(a.start.TailBytes, 10))
	case a.start.Offset > 0:
		query.Set("offset", strconv.FormatInt(a.start.Offset, 10))
	}
	request := &call{operation: "attach_command", path: a.path(), query: query}
	opened, err := a.client.dial(a.ctx, request)
	if err != nil {
		return nil, err
	}
	var first AttachServerMessage
	if err = opened.receiveJSON(&first); err == nil && first.Type == "error" {
		err = errorFromMessage(orEmpty(first.Code), orEmpty(first.Data), nil)
	}
	if err != nil {
		opened.close()
		return nil, err
	}
	if first.Command != nil {
		a.command, a.process = first.Command.ID, int(first.Command.PID)
	}
	a.patience.connected()
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.hasLeft {
		opened.close()
	}
	a.socket = opened
	return opened, nil
}

func (a *attachConnection) next() (Output, *int, error) {
	for {
		current, err := a.current()
		mayGoOn := isTransientAnswer(err)
		if err == nil {
			var output Output
			var exitCode *int
			output, exitCode, err = a.read(current)
			if err == nil {
				a.patience.progressed()
				return output, exitCode, nil
			}
			// A refusal behind the first frame is what became of the command.
			mayGoOn = isTransient(err)
		}
		if !mayGoOn || a.drop() {
			return Output{}, nil, err
		}
		if err := a.patience.wait(a.ctx, err); err != nil {
			return Output{}, nil, err
		}
	}
}

// current returns the connection, and makes one if there is none.
func (a *attachConnection) current() (*socket, error) {
	a.mutex.Lock()
	current := a.socket
	a.mutex.Unlock()
	if current != nil {
		return current, nil
	}
	return a.connect()
}

// drop closes a connection that is of no more use, and returns true if Disconnect was called.
func (a *attachConnection) drop() bool {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if !a.hasLeft && a.socket != nil {
		a.socket.close()
		a.socket = nil
	}
	return a.hasLeft
}

// read reads the next output, or the exit code.
func (a *attachConnection) read(current *socket) (Output, *int, error) {
	for {
		var message AttachServerMessage
		if err := current.receiveJSON(&message); err != nil {
			return Output{}, nil, err
		}
		if message.NextOffset != nil {
			a.offset = message.NextOffset
		}
		switch message.Type {
		case "stdout", "stderr":
			output, err := decodeOutput(message.Type, message.Data)
			return output, nil, err
		case "dropped":
			a.patience.progressed()
			return Output{}, nil, &OutputLostError{Bytes: int64(*toInt(message.Bytes))}
		case "exit":
			return Output{}, toInt(message.ExitCode), nil
		case "error":
			return Output{}, nil, errorFromMessage(orEmpty(message.Code), orEmpty(message.Data), nil)
		}
	}
}

func (a *attachConnection) path() map[string]string {
	return map[string]string{"id": a.sandboxID, "command": a.command}
}

func (a *attachConnection) signal(ctx context.Context, signal ProcessSignal) error {
	return a.client.signalCommand(ctx, a.path(), signal)
}

func (a *attachConnection) write(ctx context.Context, data []byte) error {
	return a.client.writeStdin(ctx, a.path(), data)
}

func (a *attachConnection) closeInput(ctx context.Context) error {
	return a.client.sendStdin(ctx, a.path(), nil, true)
}

func (a *attachConnection) resize(ctx context.Context, size TerminalSize) error {
	return a.client.json(ctx, &call{operation: "resize_command", path: a.path(), body: size}, nil)
}

func (a *attachConnection) disconnect() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.hasLeft = true
	if a.socket != nil {
		a.socket.close()
	}
	a.cancel()
}

func (c *Client) signalCommand(ctx context.Context, path map[string]string, signal ProcessSignal) error {
	return c.json(ctx, &call{operation: "signal_command", path: path, body: CommandSignal{Signal: signal}}, nil)
}

func (c *Client) writeStdin(ctx context.Context, path map[string]string, data []byte) error {
	for len(data) > 0 {
		part := data[:min(len(data), maxStdin)]
		data = data[len(part):]
		if err := c.sendStdin(ctx, path, part, false); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) sendStdin(ctx context.Context, path map[string]string, data []byte, isLast bool) error {
	request := &call{
		operation:   "write_command_stdin",
		path:        path,
		contentType: "application/octet-stream",
		stream:      func() (io.Reader, int64) { return bytes.NewReader(data), int64(len(data)) },
	}
	if isLast {
		request.query = url.Values{"close": {"true"}}
	}
	return c.json(ctx, request, nil)
}
