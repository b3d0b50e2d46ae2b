//go:build conformance

package wrenn

// Operations of scenarios: one for each name in the table of sdks/README.md, and those of the runner.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// fields are the inputs of a step.
type fields map[string]any

func (f fields) text(name string) string {
	text, _ := f[name].(string)
	return text
}

func (f fields) number(name string) int {
	number, _ := f[name].(float64)
	return int(number)
}

func (f fields) seconds(name string) time.Duration {
	return time.Duration(f.number(name)) * time.Second
}

func (f fields) is(name string) bool {
	value, _ := f[name].(bool)
	return value
}

func (f fields) data(name string) []byte {
	if text, ok := f[name].(string); ok {
		return []byte(text)
	}
	data, _ := f[name].([]byte)
	return data
}

func (f fields) size() TerminalSize {
	return decode[TerminalSize](f["size"])
}

func (f fields) mode() uint32 {
	mode, _ := strconv.ParseUint(f.text("mode"), 8, 32)
	return uint32(mode)
}

func (f fields) file() FileOptions {
	overwrite, isSet := f["overwrite"].(bool)
	return FileOptions{User: f.text("user"), Recursive: f.is("recursive"), NoOverwrite: isSet && !overwrite}
}

// decode converts plain values to a type of the API.
func decode[T any](value any) T {
	var result T
	text, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(text, &result)
	}
	if err != nil {
		panic(err)
	}
	return result
}

type operation = func(w *world, on any, with map[string]any) (any, error)

func ofSandbox(do func(w *world, s *Sandbox, f fields) (any, error)) operation {
	return func(w *world, on any, with map[string]any) (any, error) { return do(w, on.(*Sandbox), with) }
}

func ofClient(do func(w *world, c *Client, f fields) (any, error)) operation {
	return func(w *world, _ any, with map[string]any) (any, error) { return do(w, w.client, with) }
}

func ofHandle(do func(w *world, h *CommandHandle, f fields) (any, error)) operation {
	return func(w *world, on any, with map[string]any) (any, error) { return do(w, on.(*CommandHandle), with) }
}

// result2 makes any of a result of any type.
func result2[T any](value T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return value, nil
}

func createOptions(f fields) CreateOptions {
	options := CreateOptions{
		Template: f.text("template"), Name: f.text("name"), Timeout: f.seconds("timeout"),
		Labels: decode[map[string]string](f["labels"]), Env: decode[map[string]string](f["envs"]),
	}
	if resume, ok := f["auto_resume"].(bool); ok {
		options.NoAutoResume = !resume
	}
	if vcpus, ok := f["vcpus"]; ok {
		options.VCPUs = int(vcpus.(float64))
		if options.VCPUs == 0 {
			// The zero of the options is the default; another value that is not allowed says the same.
			options.VCPUs = -1
		}
	}
	return options
}

func (w *world) created(sandbox *Sandbox, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	w.cleanup(func() { sandbox.Close() })
	return sandbox, nil
}

func (w *world) opened(handle *CommandHandle, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	w.cleanup(handle.Disconnect)
	return handle, nil
}

func commandOf(w *world, s *Sandbox, f fields) *Cmd {
	var cmd *Cmd
	if text, ok := f["cmd"].(string); ok {
		cmd = s.Commands.Shell(w.ctx, text)
	} else {
		words := decode[[]string](f["cmd"])
		cmd = s.Commands.Command(w.ctx, words[0], words[1:]...)
	}
	cmd.Dir, cmd.User, cmd.CommandName = f.text("cwd"), f.text("user"), f.text("name")
	cmd.Env = decode[map[string]string](f["envs"])
	cmd.Timeout = f.seconds("timeout")
	cmd.OpenStdin = f.is("stdin")
	if data := f.data("stdin"); data != nil {
		cmd.Stdin = bytes.NewReader(data)
	}
	return cmd
}

// unchecked takes an exit code for no error, where a scenario says so.
func unchecked(f fields, result *Result, err error) (any, error) {
	var exit *CommandExitError
	if check, ok := f["check"].(bool); ok && !check && errors.As(err, &exit) {
		return exit.Result, nil
	}
	return result2(result, err)
}

func run(w *world, s *Sandbox, f fields) (any, error) {
	cmd := commandOf(w, s, f)
	if f.is("background") {
		return w.opened(cmd.StartBackground())
	}
	result, err := cmd.Run()
	return unchecked(f, result, err)
}

func readUntil(_ *world, h *CommandHandle, f fields) (any, error) {
	var came strings.Builder
	for output, err := range h.Output() {
		if err != nil {
			return nil, err
		}
		came.Write(output.Data)
		if strings.Contains(came.String(), f.text("text")) {
			return came.String(), nil
		}
	}
	return nil, fmt.Errorf("the command ended; its output: %s", came.String())
}

// nextMatch reads until something matches.
func nextMatch[T any](next func() (T, error), f fields) (any, error) {
	for {
		item, err := next()
		if err != nil {
			return nil, err
		}
		if got := plain(item); matches(f["match"], got) {
			return got, nil
		}
	}
}

// logFollower reads a log that goes on.
type logFollower struct {
	entries chan LogEntry
	cancel  context.CancelFunc
}

func (l *logFollower) next() (LogEntry, error) {
	select {
	case entry, ok := <-l.entries:
		if !ok {
			return entry, io.EOF
		}
		return entry, nil
	case <-time.After(30 * time.Second):
		return LogEntry{}, errors.New("nothing came within 30 s")
	}
}

func logs(w *world, s *Sandbox, f fields) (any, error) {
	if !f.is("follow") {
		return result2(collect(s.Logs(w.ctx)))
	}
	ctx, cancel := context.WithCancel(w.ctx)
	follower := &logFollower{entries: make(chan LogEntry), cancel: cancel}
	w.cleanup(cancel)
	go func() {
		defer close(follower.entries)
		for entry, err := range s.Logs(ctx, LogOptions{Follow: true}) {
			if err != nil {
				return
			}
			select {
			case follower.entries <- entry:
			case <-ctx.Done():
				return
			}
		}
	}()
	return follower, nil
}

func exchange(w *world, s *Sandbox, f fields) (any, error) {
	conn, err := s.DialPort(w.ctx, f.number("port"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	sending := make(chan error, 1)
	go func() {
		_, err := conn.Write(f.data("data"))
		sending <- errors.Join(err, conn.CloseWrite())
	}()
	received, err := io.ReadAll(conn)
	return received, errors.Join(err, <-sending)
}

func search(w *world, s *Sandbox, f fields) (any, error) {
	found, err := s.Files.Search(w.ctx, f.text("path"), SearchOptions{
		Name: f.text("name"), Content: f.text("content"), IgnoreCase: f.is("ignore_case"), Limit: f.number("limit"),
	})
	if err != nil {
		return nil, err
	}
	items, err := collect(found.Matches())
	if err != nil {
		return nil, err
	}
	result := map[string]any{"matches": plain(items)}
	if incomplete := found.Summary().Incomplete; incomplete != nil {
		result["incomplete"] = *incomplete
	}
	return result, nil
}

func diff(w *world, s *Sandbox, f fields) (any, error) {
	found, err := s.Diff(w.ctx, DiffOptions{From: f.text("from"), Path: f.text("path"), Patches: f.is("patches")})
	if err != nil {
		return nil, err
	}
	changes, err := collect(found.Changes())
	if err != nil {
		return nil, err
	}
	result := plain(found.Summary()).(map[string]any)
	result["changes"] = plain(changes)
	for _, name := range []string{"to", "incomplete"} {
		if result[name] == "" {
			delete(result, name)
		}
	}
	return result, nil
}

func read(w *world, s *Sandbox, f fields) (any, error) {
	path := f.text("path")
	if f.text("format") == "stream" {
		reader, err := s.Files.Open(w.ctx, path, f.file())
		if err != nil {
			return nil, err
		}
		defer reader.Close()
		data, err := io.ReadAll(reader)
		return result2(data, err)
	}
	data, err := s.Files.Read(w.ctx, path, f.file())
	if err != nil {
		return nil, err
	}
	if f.text("format") == "bytes" {
		return data, nil
	}
	return string(data), nil
}

func writeFiles(w *world, s *Sandbox, f fields) (any, error) {
	var entries []FileEntry
	for _, file := range f["files"].([]any) {
		one := fields(file.(map[string]any))
		entries = append(entries, FileEntry{Path: one.text("path"), Data: bytes.NewReader(one.data("data"))})
	}
	return nil, s.Files.WriteFiles(w.ctx, entries)
}

func update(w *world, s *Sandbox, f fields) (any, error) {
	options := UpdateOptions{Timeout: f.seconds("timeout"), OnTimeout: OnTimeout(f.text("on_timeout"))}
	options.Labels = decode[map[string]*string](f["labels"])
	return result2(s.Update(w.ctx, options))
}

func getURL(_ *world, _ any, with map[string]any) (any, error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		response, err := http.Get(fields(with).text("url"))
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusBadGateway || time.Now().After(end) {
			return map[string]any{"status": float64(response.StatusCode), "text": string(text)}, nil
		}
	}
}

func (w *world) faults(method string, body any) ([]map[string]string, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(w.ctx, method, w.proxyURL+"/faults", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Requests []map[string]string `json:"requests"`
	}
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer.Requests, err
}

func countFaults(w *world, _ any, with map[string]any) (any, error) {
	requests, err := w.faults(http.MethodGet, nil)
	count := 0.0
	for _, request := range requests {
		isThat := regexp.MustCompile(fields(with).text("path")).MatchString(request["path"])
		if isThat && request["method"] == fields(with).text("method") {
			count++
		}
	}
	return count, err
}

func filterOf(f fields) Filter {
	filter := Filter{Labels: decode[map[string]string](f["labels"]), NamePrefix: f.text("name_prefix")}
	if status := f.text("status"); status != "" {
		filter.Status = []SandboxStatus{SandboxStatus(status)}
	}
	return filter
}

func eventFilter(f fields) EventFilter {
	filter := EventFilter{Cursor: f.text("cursor"), Sandbox: f.text("sandbox")}
	if kind := f.text("type"); kind != "" {
		filter.Types = []string{kind}
	}
	return filter
}

// wait waits for the time of the scenario, which is that of the context here.
func (w *world) wait(f fields, do func(ctx context.Context) (any, error)) (any, error) {
	ctx := w.ctx
	if timeout := f.seconds("timeout"); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return do(ctx)
}

var operations map[string]operation

func init() {
	operations = map[string]operation{}
	for name, do := range sandboxOperations {
		operations[name] = ofSandbox(do)
	}
	for name, do := range clientOperations {
		operations[name] = ofClient(do)
	}
	for name, do := range handleOperations {
		operations[name] = ofHandle(do)
	}
	for name, do := range runnerOperations {
		operations[name] = do
	}
}

var sandboxOperations = map[string]func(w *world, s *Sandbox, f fields) (any, error){
	"get_info":   func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.Info(w.ctx)) },
	"is_running": func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.IsRunning(w.ctx)) },
	"update":     update,
	"set_timeout": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.SetTimeout(w.ctx, f.seconds("timeout"))
	},
	"wait": func(w *world, s *Sandbox, f fields) (any, error) {
		return w.wait(f, func(ctx context.Context) (any, error) {
			return result2(s.Wait(ctx, SandboxStatus(f.text("status"))))
		})
	},
	"wait_deleted": func(w *world, s *Sandbox, f fields) (any, error) {
		return w.wait(f, func(ctx context.Context) (any, error) { return nil, s.WaitDeleted(ctx) })
	},
	"keep_alive":  func(w *world, s *Sandbox, _ fields) (any, error) { return nil, s.KeepAlive(w.ctx) },
	"ping":        func(w *world, s *Sandbox, _ fields) (any, error) { return nil, s.Ping(w.ctx) },
	"kill":        func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.Kill(w.ctx)) },
	"get_metrics": func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.Metrics(w.ctx)) },
	"get_logs":    logs,
	"update_network": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.UpdateNetwork(w.ctx, decode[NetworkRules](map[string]any(f))))
	},
	"pause":  func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.Pause(w.ctx)) },
	"resume": func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.Resume(w.ctx)) },
	"fork": func(w *world, s *Sandbox, f fields) (any, error) {
		children, err := s.Fork(w.ctx, f.number("count"))
		for _, child := range children {
			w.cleanup(func() { child.Close() })
		}
		return result2(children, err)
	},
	"rollback": func(w *world, s *Sandbox, f fields) (any, error) { return result2(s.Rollback(w.ctx, f.text("name"))) },
	"undo": func(w *world, s *Sandbox, f fields) (any, error) {
		if f["checkpoint"] != nil {
			return result2(s.UndoTo(w.ctx, f.text("checkpoint")))
		}
		return result2(s.Undo(w.ctx, f.number("steps")))
	},
	"get_history": func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.History(w.ctx)) },
	"diff":        diff,
	"create_snapshot": func(w *world, s *Sandbox, f fields) (any, error) {
		template, err := s.CreateSnapshot(w.ctx, f.text("name"))
		if err == nil {
			// Sandboxes that are made from it are deleted first.
			remove := func() { _, _ = w.client.DeleteSnapshot(w.ctx, template.Name) }
			w.cleanups = append([]func(){remove}, w.cleanups...)
		}
		return result2(template, err)
	},
	"get_url": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.URL(w.ctx, f.number("port"), PortLinkOptions{ExpiresIn: f.seconds("expires_in")}))
	},
	"create_port_link": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.CreatePortLink(w.ctx, f.number("port")))
	},
	"port.exchange": exchange,
	"checkpoints.create": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Checkpoints.Create(w.ctx, f.text("name")))
	},
	"checkpoints.list": func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.Checkpoints.List(w.ctx)) },
	"checkpoints.delete": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Checkpoints.Delete(w.ctx, f.text("name")))
	},
	"checkpoints.set_auto": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.Checkpoints.SetAuto(w.ctx, decode[AutoCheckpoint](map[string]any(f)))
	},
	"checkpoints.remove_auto": func(w *world, s *Sandbox, _ fields) (any, error) {
		return nil, s.Checkpoints.RemoveAuto(w.ctx)
	},
	"commands.run": run,
	"commands.stream": func(w *world, s *Sandbox, f fields) (any, error) {
		return w.opened(commandOf(w, s, f).Start())
	},
	"commands.list": func(w *world, s *Sandbox, _ fields) (any, error) { return result2(s.Commands.List(w.ctx)) },
	"commands.get":  func(w *world, s *Sandbox, f fields) (any, error) { return result2(s.Commands.Get(w.ctx, f.text("id"))) },
	"commands.connect": func(w *world, s *Sandbox, f fields) (any, error) {
		return w.opened(s.Commands.Connect(w.ctx, f.text("id"), ConnectOptions{Offset: int64(f.number("offset"))}))
	},
	"commands.read_output": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Commands.ReadOutput(w.ctx, f.text("id"), ReadOutputOptions{Offset: int64(f.number("offset"))}))
	},
	"commands.send_signal": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.Commands.SendSignal(w.ctx, f.text("id"), ProcessSignal(f.text("signal")))
	},
	"commands.kill": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Commands.Kill(w.ctx, f.text("id")))
	},
	"commands.send_stdin": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.Commands.SendStdin(w.ctx, f.text("id"), f.data("data"))
	},
	"commands.close_stdin": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.Commands.CloseStdin(w.ctx, f.text("id"))
	},
	"pty.create":  func(w *world, s *Sandbox, f fields) (any, error) { return w.opened(s.Pty.Create(w.ctx, f.size())) },
	"pty.connect": func(w *world, s *Sandbox, f fields) (any, error) { return w.opened(s.Pty.Connect(w.ctx, f.text("id"))) },
	"pty.resize": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.Pty.Resize(w.ctx, f.text("id"), f.size())
	},
	"pty.send_stdin": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.Pty.SendStdin(w.ctx, f.text("id"), f.data("data"))
	},
	"pty.kill":   func(w *world, s *Sandbox, f fields) (any, error) { return result2(s.Pty.Kill(w.ctx, f.text("id"))) },
	"files.read": read,
	"files.write": func(w *world, s *Sandbox, f fields) (any, error) {
		options := WriteOptions{User: f.text("user"), Mode: f.mode()}
		return nil, s.Files.Write(w.ctx, f.text("path"), bytes.NewReader(f.data("data")), options)
	},
	"files.write_files": writeFiles,
	"files.list": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Files.List(w.ctx, f.text("path"), ListOptions{Depth: f.number("depth")}))
	},
	"files.scan": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(collect(s.Files.Scan(w.ctx, f.text("path"))))
	},
	"files.exists": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Files.Exists(w.ctx, f.text("path")))
	},
	"files.get_info": func(w *world, s *Sandbox, f fields) (any, error) { return result2(s.Files.Info(w.ctx, f.text("path"))) },
	"files.make_dir": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Files.MakeDir(w.ctx, f.text("path")))
	},
	"files.rename": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Files.Rename(w.ctx, f.text("old_path"), f.text("new_path"), f.file()))
	},
	"files.remove": func(w *world, s *Sandbox, f fields) (any, error) { return nil, s.Files.Remove(w.ctx, f.text("path")) },
	"files.chmod": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Files.Chmod(w.ctx, f.text("path"), f.text("mode"), f.file()))
	},
	"files.chown": func(w *world, s *Sandbox, f fields) (any, error) {
		return result2(s.Files.Chown(w.ctx, f.text("path"), f.text("owner"), f.text("group"), f.file()))
	},
	"files.search": search,
	"files.watch_dir": func(w *world, s *Sandbox, f fields) (any, error) {
		watch, err := s.Files.WatchDir(w.ctx, f.text("path"), f.file())
		if err == nil {
			w.cleanup(func() { watch.Close() })
		}
		return result2(watch, err)
	},
	"files.upload": func(w *world, s *Sandbox, f fields) (any, error) {
		data := f.data("data")
		options := WriteOptions{User: f.text("user"), Mode: f.mode()}
		return nil, s.Files.Upload(w.ctx, bytes.NewReader(data), int64(len(data)), f.text("path"), options)
	},
	"files.download": func(w *world, s *Sandbox, f fields) (any, error) {
		var local bytes.Buffer
		err := s.Files.Download(w.ctx, f.text("path"), &local)
		return local.Bytes(), err
	},
	"files.read_archive": func(w *world, s *Sandbox, f fields) (any, error) {
		reader, err := s.Files.ReadArchive(w.ctx, f.text("path"))
		if err != nil {
			return nil, err
		}
		defer reader.Close()
		return result2(io.ReadAll(reader))
	},
	"files.write_archive": func(w *world, s *Sandbox, f fields) (any, error) {
		return nil, s.Files.WriteArchive(w.ctx, f.text("path"), bytes.NewReader(f.data("data")))
	},
}

var clientOperations = map[string]func(w *world, c *Client, f fields) (any, error){
	"Sandbox.create": func(w *world, c *Client, f fields) (any, error) {
		return w.created(c.Create(w.ctx, createOptions(f)))
	},
	"Sandbox.get_or_create": func(w *world, c *Client, f fields) (any, error) {
		return w.created(c.GetOrCreate(w.ctx, f.text("name"), createOptions(f)))
	},
	"Sandbox.get":     func(w *world, c *Client, f fields) (any, error) { return result2(c.Get(w.ctx, f.text("id"))) },
	"Sandbox.connect": func(w *world, c *Client, f fields) (any, error) { return result2(c.Connect(w.ctx, f.text("id"))) },
	"Sandbox.list": func(w *world, c *Client, f fields) (any, error) {
		return result2(collect(c.List(w.ctx, filterOf(f))))
	},
	"Sandbox.count": func(w *world, c *Client, f fields) (any, error) { return result2(c.Count(w.ctx, filterOf(f))) },
	"Sandbox.get_usage": func(w *world, c *Client, f fields) (any, error) {
		return result2(collect(c.Usage(w.ctx, decode[[]string](f["ids"])...)))
	},
	"Sandbox.list_snapshots": func(w *world, c *Client, _ fields) (any, error) { return result2(c.ListSnapshots(w.ctx)) },
	"Sandbox.get_snapshot": func(w *world, c *Client, f fields) (any, error) {
		return result2(c.GetSnapshot(w.ctx, f.text("name")))
	},
	"Sandbox.delete_snapshot": func(w *world, c *Client, f fields) (any, error) {
		return result2(c.DeleteSnapshot(w.ctx, f.text("name")))
	},
	"Template.list":    func(w *world, c *Client, _ fields) (any, error) { return result2(c.ListTemplates(w.ctx)) },
	"health":           func(w *world, c *Client, _ fields) (any, error) { return result2(c.Health(w.ctx)) },
	"openapi":          func(w *world, c *Client, _ fields) (any, error) { return result2(c.OpenAPI(w.ctx)) },
	"get_host_metrics": func(w *world, c *Client, _ fields) (any, error) { return result2(c.HostMetrics(w.ctx)) },
	"events.list": func(w *world, c *Client, f fields) (any, error) {
		events, err := collect(c.Events.List(w.ctx, eventFilter(f)))
		return result2(events, err)
	},
	"events.stream": func(w *world, c *Client, f fields) (any, error) {
		stream, err := c.Events.Stream(w.ctx, eventFilter(f))
		if err == nil {
			w.cleanup(func() { stream.Close() })
		}
		return result2(stream, err)
	},
	"webhooks.create": func(w *world, c *Client, f fields) (any, error) {
		options := WebhookOptions{Events: decode[[]string](f["events"]), Description: f.text("description")}
		webhook, err := c.Webhooks.Create(w.ctx, f.text("url"), options)
		if err == nil {
			w.cleanup(func() { _, _ = c.Webhooks.Delete(w.ctx, webhook.ID) })
		}
		return result2(webhook, err)
	},
	"webhooks.list": func(w *world, c *Client, _ fields) (any, error) { return result2(c.Webhooks.List(w.ctx)) },
	"webhooks.get":  func(w *world, c *Client, f fields) (any, error) { return result2(c.Webhooks.Get(w.ctx, f.text("id"))) },
	"webhooks.update": func(w *world, c *Client, f fields) (any, error) {
		changes := decode[UpdateWebhook](map[string]any(f))
		return result2(c.Webhooks.Update(w.ctx, f.text("id"), changes))
	},
	"webhooks.delete": func(w *world, c *Client, f fields) (any, error) {
		return result2(c.Webhooks.Delete(w.ctx, f.text("id")))
	},
	"webhooks.test": func(w *world, c *Client, f fields) (any, error) { return result2(c.Webhooks.Test(w.ctx, f.text("id"))) },
	"webhooks.rotate_secret": func(w *world, c *Client, f fields) (any, error) {
		return result2(c.Webhooks.RotateSecret(w.ctx, f.text("id"), f.seconds("overlap_sec")))
	},
	"webhooks.list_deliveries": func(w *world, c *Client, f fields) (any, error) {
		return result2(collect(c.Webhooks.ListDeliveries(w.ctx, f.text("id"), "")))
	},
	"webhooks.get_delivery": func(w *world, c *Client, f fields) (any, error) {
		return result2(c.Webhooks.GetDelivery(w.ctx, f.text("id"), f.text("delivery")))
	},
	"webhooks.redeliver": func(w *world, c *Client, f fields) (any, error) {
		return result2(c.Webhooks.Redeliver(w.ctx, f.text("id"), f.text("delivery")))
	},
	"webhooks.redeliver_dead": func(w *world, c *Client, f fields) (any, error) {
		return result2(c.Webhooks.RedeliverDead(w.ctx, f.text("id")))
	},
	"client.close": func(*world, *Client, fields) (any, error) { return nil, nil },
}

var handleOperations = map[string]func(w *world, h *CommandHandle, f fields) (any, error){
	"handle.read_until": readUntil,
	"handle.wait": func(_ *world, h *CommandHandle, f fields) (any, error) {
		result, err := h.Wait()
		return unchecked(f, result, err)
	},
	"handle.kill": func(w *world, h *CommandHandle, _ fields) (any, error) { return result2(h.Kill(w.ctx)) },
	"handle.send_stdin": func(w *world, h *CommandHandle, f fields) (any, error) {
		return nil, h.SendStdin(w.ctx, f.data("data"))
	},
	"handle.close_stdin": func(w *world, h *CommandHandle, _ fields) (any, error) { return nil, h.CloseStdin(w.ctx) },
	"handle.resize":      func(w *world, h *CommandHandle, f fields) (any, error) { return nil, h.Resize(w.ctx, f.size()) },
	"handle.send_signal": func(w *world, h *CommandHandle, f fields) (any, error) {
		return nil, h.SendSignal(w.ctx, ProcessSignal(f.text("signal")))
	},
	"handle.disconnect": func(_ *world, h *CommandHandle, _ fields) (any, error) {
		h.Disconnect()
		return nil, nil
	},
}

var runnerOperations = map[string]operation{
	"get_disk_usage": func(w *world, on any, _ map[string]any) (any, error) {
		if client, ok := on.(*Client); ok {
			return result2(client.DiskUsage(w.ctx))
		}
		return result2(on.(*Sandbox).DiskUsage(w.ctx))
	},
	"watch.next": func(_ *world, on any, with map[string]any) (any, error) {
		return nextMatch(on.(*Watch).Next, with)
	},
	"watch.close": func(_ *world, on any, _ map[string]any) (any, error) { return nil, on.(*Watch).Close() },
	"stream.next": func(_ *world, on any, with map[string]any) (any, error) {
		if follower, ok := on.(*logFollower); ok {
			return nextMatch(follower.next, with)
		}
		return nextMatch(on.(*EventStream).Next, with)
	},
	"stream.close": func(_ *world, on any, _ map[string]any) (any, error) {
		if follower, ok := on.(*logFollower); ok {
			follower.cancel()
			return nil, nil
		}
		return nil, on.(*EventStream).Close()
	},
	"http.get": getURL,
	"faults.set": func(w *world, _ any, with map[string]any) (any, error) {
		_, err := w.faults(http.MethodPut, with)
		return nil, err
	},
	"faults.count": countFaults,
}
