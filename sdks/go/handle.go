package wrenn

import (
	"context"
	"io"
	"iter"
	"sync"
)

// maxKept is the number of bytes of output that was iterated over that are kept for the result of Wait.
const maxKept = 16 << 20

// Stream is a stream of output.
type Stream string

// Streams of output.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Output is a piece of output.
type Output struct {
	Stream Stream
	Data   []byte
}

// Result is the output and exit code of a command that ended.
type Result struct {
	// ExitCode is 128 + signal where a signal ended the command.
	ExitCode int
	Stdout   []byte
	Stderr   []byte
}

// connection is where output comes from and input goes to.
type connection interface {
	pid() int
	id() string
	// next waits for output; at the end the exit code is not nil.
	next() (Output, *int, error)
	signal(ctx context.Context, signal ProcessSignal) error
	write(ctx context.Context, data []byte) error
	closeInput(ctx context.Context) error
	resize(ctx context.Context, size TerminalSize) error
	disconnect()
}

// CommandHandle is a command that runs, in the background or as long as its connection.
//
// Output is read as it is asked for. It is not safe for concurrent readers; other goroutines may send input and
// signals.
type CommandHandle struct {
	connection connection
	mutex      sync.Mutex
	exitCode   *int
	// kept is output in the order in which it came, so that the oldest goes first.
	kept      []Output
	keptBytes int
	isWaiting bool
	// inputError is the error of the reader that the standard input is copied from.
	inputError error
	// isPassed is true where writers get the output, so that none of it is kept.
	isPassed bool
}

func newHandle(connection connection) *CommandHandle {
	return &CommandHandle{connection: connection}
}

// PID returns the id of the process in the sandbox.
func (h *CommandHandle) PID() int { return h.connection.pid() }

// ID returns the id of a background command; empty for one that ends with its connection.
func (h *CommandHandle) ID() string { return h.connection.id() }

// ExitCode returns the exit code, and whether the end was read.
func (h *CommandHandle) ExitCode() (int, bool) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.exitCode == nil {
		return 0, false
	}
	return *h.exitCode, true
}

// Next waits for the next piece of output; io.EOF at the end.
func (h *CommandHandle) Next() (Output, error) {
	if _, ended := h.ExitCode(); ended {
		return Output{}, io.EOF
	}
	output, exitCode, err := h.connection.next()
	if err != nil {
		h.mutex.Lock()
		defer h.mutex.Unlock()
		if h.inputError != nil {
			return Output{}, h.inputError
		}
		return Output{}, err
	}
	if exitCode != nil {
		h.mutex.Lock()
		h.exitCode = exitCode
		h.mutex.Unlock()
		h.connection.disconnect()
		return Output{}, io.EOF
	}
	h.keep(output)
	return output, nil
}

// failInput ends the command with the error of its input, which Next returns.
func (h *CommandHandle) failInput(err error) {
	h.mutex.Lock()
	h.inputError = err
	h.mutex.Unlock()
	h.connection.disconnect()
}

func (h *CommandHandle) keep(output Output) {
	if h.isPassed {
		return
	}
	h.kept = append(h.kept, output)
	h.keptBytes += len(output.Data)
	for !h.isWaiting && h.keptBytes > maxKept && len(h.kept) > 1 {
		h.keptBytes -= len(h.kept[0].Data)
		h.kept[0] = Output{}
		h.kept = h.kept[1:]
	}
}

// Output iterates over the output as it comes. It ends with the command, or with an error.
func (h *CommandHandle) Output() iter.Seq2[Output, error] {
	return func(yield func(Output, error) bool) {
		for {
			output, err := h.Next()
			if err == io.EOF || !yield(output, err) || err != nil {
				return
			}
		}
	}
}

// Wait waits for the end. The result has all output; of more than 16 MiB that was read before, the last part. The error
// is a CommandExitError if the exit code is not 0.
func (h *CommandHandle) Wait() (*Result, error) {
	h.isWaiting = true
	for {
		_, err := h.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	code, _ := h.ExitCode()
	result := &Result{ExitCode: code, Stdout: h.joined(Stdout), Stderr: h.joined(Stderr)}
	if code != 0 {
		return result, &CommandExitError{Result: result}
	}
	return result, nil
}

// joined returns what is kept of a stream.
func (h *CommandHandle) joined(stream Stream) []byte {
	var whole []byte
	for _, output := range h.kept {
		if output.Stream == stream {
			whole = append(whole, output.Data...)
		}
	}
	return whole
}

// SendSignal sends a signal to its process group.
func (h *CommandHandle) SendSignal(ctx context.Context, signal ProcessSignal) error {
	return h.connection.signal(ctx, signal)
}

// Kill kills its process group; false if it has ended.
func (h *CommandHandle) Kill(ctx context.Context) (bool, error) {
	if _, ended := h.ExitCode(); ended {
		return false, nil
	}
	return falseIfMissing(h.connection.signal(ctx, ProcessSignalSIGKILL))
}

// SendStdin writes to its standard input, or types into its terminal.
func (h *CommandHandle) SendStdin(ctx context.Context, data []byte) error {
	return h.connection.write(ctx, data)
}

// CloseStdin ends its standard input.
func (h *CommandHandle) CloseStdin(ctx context.Context) error {
	return h.connection.closeInput(ctx)
}

// Resize resizes its terminal.
func (h *CommandHandle) Resize(ctx context.Context, size TerminalSize) error {
	return h.connection.resize(ctx, size)
}

// Disconnect hangs up. A background command runs on; one of Command is killed.
func (h *CommandHandle) Disconnect() { h.connection.disconnect() }
