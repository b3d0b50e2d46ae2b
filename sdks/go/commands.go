package wrenn

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strconv"
	"time"
)

// commandTimeout is the default time of a command that is run to its end.
const commandTimeout = time.Minute

// Commands are the commands of a sandbox.
type Commands struct {
	client    *Client
	sandboxID string
}

// Cmd is a command that is not started yet, as in os/exec.
type Cmd struct {
	// Name is the name or path of the program. It is run directly, not by a shell.
	Name string
	Args []string
	// Dir is the working directory. Default: that of the image's configuration, else the user's home.
	Dir string
	// Env is added to the environment of the sandbox.
	Env map[string]string
	// User in the guest. Default: that of the template.
	User string
	// Timeout is the time after which the command is ended. Default: a minute for Run and Output, no limit for others;
	// negative: no limit.
	Timeout time.Duration
	// Stdin is copied to the standard input of Run and Start, which ends with it. Default: the command reads end of file
	// at once.
	Stdin io.Reader
	// Stdout and Stderr get the output of Run as it comes; what they do not get is in the result.
	Stdout io.Writer
	Stderr io.Writer
	// OpenStdin keeps the standard input open for SendStdin.
	OpenStdin bool
	// Terminal runs the command on a terminal of this size; its output all comes as Stdout.
	Terminal *TerminalSize
	// CommandName of a background command, unique among those that run.
	CommandName string
	// KeepAlive: the sandbox counts as used for as long as the background command runs.
	KeepAlive bool

	ctx      context.Context
	commands *Commands
}

// Command returns a command, which Run, Start or StartBackground starts. One of Run and Start is killed when ctx is
// done.
func (c *Commands) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Name: name, Args: args, ctx: ctx, commands: c}
}

// Shell returns a command that runs text in a login shell of the sandbox: bash where it is there.
func (c *Commands) Shell(ctx context.Context, text string) *Cmd {
	script := `if command -v bash >/dev/null 2>&1; then exec bash -l -c "$1"; else exec sh -l -c "$1"; fi`
	return c.Command(ctx, "/bin/sh", "-c", script, "sh", text)
}

// Run runs a command to its end. The error is a CommandExitError, with the result in it, if the exit code is not 0.
func (c *Commands) Run(ctx context.Context, name string, args ...string) (*Result, error) {
	return c.Command(ctx, name, args...).Run()
}

// Start starts a command in the background and follows it. It runs on when the handle is gone; ctx ends the handle.
func (c *Commands) Start(ctx context.Context, name string, args ...string) (*CommandHandle, error) {
	return c.Command(ctx, name, args...).StartBackground()
}

func (cmd *Cmd) fields(fallback time.Duration) map[string]any {
	fields := map[string]any{"cmd": cmd.Name, "args": append([]string{}, cmd.Args...)}
	timeout := cmd.Timeout
	if timeout == 0 {
		timeout = fallback
	}
	if timeout > 0 {
		fields["timeout_sec"] = ceilSeconds(timeout)
	}
	setIf(fields, "cwd", cmd.Dir, cmd.Dir != "")
	setIf(fields, "user", cmd.User, cmd.User != "")
	setIf(fields, "envs", cmd.Env, cmd.Env != nil)
	setIf(fields, "stdin", true, cmd.OpenStdin || cmd.Stdin != nil)
	setIf(fields, "terminal", cmd.Terminal, cmd.Terminal != nil)
	return fields
}

func setIf(fields map[string]any, name string, value any, isSet bool) {
	if isSet {
		fields[name] = value
	}
}

// Run runs the command to its end. Result has the output that Stdout and Stderr did not get.
func (cmd *Cmd) Run() (*Result, error) {
	handle, err := cmd.start(commandTimeout)
	if err != nil {
		return nil, err
	}
	defer handle.Disconnect()
	return cmd.drain(handle)
}

func (cmd *Cmd) drain(handle *CommandHandle) (*Result, error) {
	if cmd.Stdout == nil && cmd.Stderr == nil {
		return handle.Wait()
	}
	handle.isPassed = true
	rest := map[Stream][]byte{}
	writers := map[Stream]io.Writer{Stdout: cmd.Stdout, Stderr: cmd.Stderr}
	for output, err := range handle.Output() {
		if err != nil {
			return nil, err
		}
		if writer := writers[output.Stream]; writer == nil {
			rest[output.Stream] = append(rest[output.Stream], output.Data...)
		} else if _, err := writer.Write(output.Data); err != nil {
			return nil, err
		}
	}
	code, _ := handle.ExitCode()
	result := &Result{ExitCode: code, Stdout: rest[Stdout], Stderr: rest[Stderr]}
	if code != 0 {
		return result, &CommandExitError{Result: result}
	}
	return result, nil
}

// feed copies the standard input. A command that ends before it has read all is no error: Wait has what became of it.
func (cmd *Cmd) feed(handle *CommandHandle) {
	buffer := make([]byte, maxInput)
	for {
		n, err := cmd.Stdin.Read(buffer)
		if n > 0 && handle.SendStdin(cmd.ctx, buffer[:n]) != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				handle.failInput(err)
				return
			}
			_ = handle.CloseStdin(cmd.ctx)
			return
		}
	}
}

// Output runs the command to its end and returns its standard output.
func (cmd *Cmd) Output() ([]byte, error) {
	result, err := cmd.Run()
	if result == nil {
		return nil, err
	}
	return result.Stdout, err
}

// Start starts the command as a stream both ways, and copies Stdin to it. It is killed when the handle is disconnected.
func (cmd *Cmd) Start() (*CommandHandle, error) {
	if cmd.Stdout != nil || cmd.Stderr != nil {
		return nil, &Error{Code: "invalid_request", Message: "Stdout and Stderr are for Run: read the output of the handle"}
	}
	return cmd.start(0)
}

func (cmd *Cmd) start(timeout time.Duration) (*CommandHandle, error) {
	connection, err := cmd.commands.client.startExec(cmd.ctx, cmd.commands.sandboxID, cmd.fields(timeout))
	if err != nil {
		return nil, err
	}
	handle := newHandle(connection)
	if cmd.Stdin != nil {
		// Beside the reading: a command may write before it reads.
		go cmd.feed(handle)
	}
	return handle, nil
}

// StartBackground starts the command in the background and follows it. It runs on when the handle is gone.
func (cmd *Cmd) StartBackground() (*CommandHandle, error) {
	if cmd.Stdin != nil || cmd.Stdout != nil || cmd.Stderr != nil {
		return nil, &Error{Code: "invalid_request", Message: "a background command has no Stdin, Stdout and Stderr: " +
			"set OpenStdin and call SendStdin, and read the output of the handle"}
	}
	fields := cmd.fields(0)
	setIf(fields, "name", cmd.CommandName, cmd.CommandName != "")
	setIf(fields, "keep_alive", true, cmd.KeepAlive)
	c := cmd.commands
	info, err := fetch[CommandInfo](cmd.ctx, c.client, &call{operation: "start_command", path: c.path(), body: fields})
	if err != nil {
		return nil, err
	}
	return newHandle(c.client.attachStarted(cmd.ctx, c.sandboxID, info)), nil
}

func (c *Commands) path() map[string]string { return map[string]string{"id": c.sandboxID} }

func (c *Commands) commandPath(command string) map[string]string {
	return map[string]string{"id": c.sandboxID, "command": command}
}

// Connect follows a background command, by id, name or pid: its output from an offset on, and then what comes.
func (c *Commands) Connect(ctx context.Context, command string, options ...ConnectOptions) (*CommandHandle, error) {
	connection, err := c.client.attach(ctx, c.sandboxID, command, firstOption(options))
	if err != nil {
		return nil, err
	}
	return newHandle(connection), nil
}

// List lists running commands, and ended ones that are kept, oldest first.
func (c *Commands) List(ctx context.Context) ([]CommandInfo, error) {
	list, err := fetch[CommandList](ctx, c.client, &call{operation: "list_commands", path: c.path()})
	if err != nil {
		return nil, err
	}
	return list.Commands, nil
}

// Get gets a background command.
func (c *Commands) Get(ctx context.Context, command string) (*CommandInfo, error) {
	return fetch[CommandInfo](ctx, c.client, &call{operation: "get_command", path: c.commandPath(command)})
}

// ReadOutputOptions select a part of the output of a background command.
type ReadOutputOptions struct {
	// Offset of the first byte.
	Offset int64
	// Stream to read alone. Default: both.
	Stream Stream
	// Wait is the time to wait where nothing is behind the offset; at most a minute.
	Wait time.Duration
}

// OutputPart is a part of the output of a background command.
type OutputPart struct {
	Data []byte
	// NextOffset is the offset to go on at.
	NextOffset int64
	// Dropped is the number of bytes before this part that are no longer kept.
	Dropped int64
	// State is exited once nothing follows.
	State CommandState
}

// ReadOutput reads a part of the output of a background command, at most 1 MiB.
func (c *Commands) ReadOutput(ctx context.Context, command string, options ...ReadOutputOptions) (*OutputPart, error) {
	selected := firstOption(options)
	query := url.Values{"offset": {strconv.FormatInt(selected.Offset, 10)}}
	if selected.Stream != "" {
		query.Set("stream", string(selected.Stream))
	}
	if selected.Wait > 0 {
		query.Set("wait", strconv.FormatInt(ceilSeconds(selected.Wait), 10))
	}
	var part OutputPart
	request := &call{
		operation: "read_command_output", path: c.commandPath(command), query: query, wait: max(0, selected.Wait),
	}
	header, err := c.client.page(ctx, request, &part.Data)
	if err != nil {
		return nil, err
	}
	part.NextOffset, _ = strconv.ParseInt(header.Get("Wrenn-Next-Offset"), 10, 64)
	part.Dropped, _ = strconv.ParseInt(header.Get("Wrenn-Dropped"), 10, 64)
	part.State = CommandState(header.Get("Wrenn-Command-State"))
	return &part, nil
}

// SendSignal sends a signal to the process group of a background command.
func (c *Commands) SendSignal(ctx context.Context, command string, signal ProcessSignal) error {
	return c.client.signalCommand(ctx, c.commandPath(command), signal)
}

// Kill kills a background command; false if it is not there, or has ended.
func (c *Commands) Kill(ctx context.Context, command string) (bool, error) {
	return falseIfMissing(c.SendSignal(ctx, command, ProcessSignalSIGKILL))
}

// SendStdin writes to the standard input of a background command.
func (c *Commands) SendStdin(ctx context.Context, command string, data []byte) error {
	return c.client.writeStdin(ctx, c.commandPath(command), data)
}

// CloseStdin ends the standard input of a background command.
func (c *Commands) CloseStdin(ctx context.Context, command string) error {
	return c.client.sendStdin(ctx, c.commandPath(command), nil, true)
}

// Pty are the terminals of a sandbox: background commands that outlive their connections.
type Pty struct {
	commands *Commands
}

// PtyOptions say what runs on a terminal.
type PtyOptions struct {
	// Command is a program and its arguments. Default: a login shell.
	Command []string
	Env     map[string]string
	Dir     string
	User    string
	Name    string
	Timeout time.Duration
	// KeepAlive: the sandbox counts as used for as long as the command runs.
	KeepAlive bool
}

// Create starts a shell, or another command, on a terminal. Its output all comes as Stdout.
func (p *Pty) Create(ctx context.Context, size TerminalSize, options ...PtyOptions) (*CommandHandle, error) {
	selected := firstOption(options)
	words := selected.Command
	if len(words) == 0 {
		script := "if command -v bash >/dev/null 2>&1; then exec bash -i -l; else exec sh -i -l; fi"
		words = []string{"/bin/sh", "-c", script}
	}
	cmd := p.commands.Command(ctx, words[0], words[1:]...)
	cmd.Env = map[string]string{"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
	for name, value := range selected.Env {
		cmd.Env[name] = value
	}
	cmd.Dir, cmd.User, cmd.CommandName = selected.Dir, selected.User, selected.Name
	cmd.Timeout, cmd.KeepAlive, cmd.Terminal = selected.Timeout, selected.KeepAlive, &size
	return cmd.StartBackground()
}

// Connect follows a terminal again, from an offset or from so many bytes before its end.
func (p *Pty) Connect(ctx context.Context, id string, options ...ConnectOptions) (*CommandHandle, error) {
	return p.commands.Connect(ctx, id, options...)
}

// Resize resizes a terminal.
func (p *Pty) Resize(ctx context.Context, id string, size TerminalSize) error {
	request := &call{operation: "resize_command", path: p.commands.commandPath(id), body: size}
	return p.commands.client.json(ctx, request, nil)
}

// SendStdin types into a terminal.
func (p *Pty) SendStdin(ctx context.Context, id string, data []byte) error {
	return p.commands.SendStdin(ctx, id, data)
}

// Kill kills what runs on a terminal; false if it is not there, or has ended.
func (p *Pty) Kill(ctx context.Context, id string) (bool, error) {
	return p.commands.Kill(ctx, id)
}

func ceilSeconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}
