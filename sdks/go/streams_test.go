package wrenn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const attached = `{"type":"attached","command":{"id":"cmd-1","pid":7,"cmd":"x","args":[],"state":"running"}}`

// serveExec answers the start of a command with frames.
func serveExec(frames ...string) func(*websocket.Conn, *http.Request) {
	return func(conn *websocket.Conn, r *http.Request) {
		if _, ok := hear(conn, r); ok {
			say(conn, r, append([]string{`{"type":"start","pid":5}`}, frames...)...)
			_, _ = hear(conn, r)
		}
	}
}

func TestRunGivesOutputAndExitCode(t *testing.T) {
	fake := newFake(t)
	stderr := `{"type":"stderr","data":"YmFkIHRoaW5nCg=="}`
	fake.socket = serveExec(stdout("a\n", ""), stderr, `{"type":"exit","exit_code":3}`)
	result, err := fake.sandbox().Commands.Run(t.Context(), "x")
	var exit *CommandExitError
	if !errors.As(err, &exit) || exit.Result != result || result.ExitCode != 3 {
		t.Fatal(err)
	}
	equal(t, err.Error(), "wrenn: the command ended with exit code 3: bad thing")
	equal(t, string(result.Stdout)+string(result.Stderr), "a\nbad thing\n")

	cmd := fake.sandbox().Commands.Command(t.Context(), "x")
	var out bytes.Buffer
	cmd.Stdout = &out
	result, err = cmd.Run()
	if !errors.As(err, &exit) || out.String() != "a\n" || string(result.Stderr) != "bad thing\n" {
		t.Fatal(err, out.String())
	}
	output, err := fake.sandbox().Commands.Command(t.Context(), "x").Output()
	if !errors.As(err, &exit) || string(output) != "a\n" {
		t.Fatal(err)
	}
	cmd = fake.sandbox().Commands.Command(t.Context(), "x")
	cmd.Stdout = writerFunc(func([]byte) (int, error) { return 0, io.ErrShortWrite })
	_, err = cmd.Run()
	want(t, err, io.ErrShortWrite)
	fake.socket = serveExec(stdout("a", ""), `{"type":"exit","exit_code":0}`)
	cmd.Stdout = io.Discard
	_, err = cmd.Run()
	noError(t, err)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(data []byte) (int, error) { return f(data) }

func TestProgramThatIsMissingIsAnError(t *testing.T) {
	fake := newFake(t)
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		_, _ = hear(conn, r)
		say(conn, r, `{"type":"error","code":"invalid_request","data":"no such","exit_code":127}`)
	}
	_, err := fake.sandbox().Commands.Command(t.Context(), "nope").Output()
	var notStarted *CommandNotStartedError
	if !errors.As(err, &notStarted) || notStarted.ExitCode != 127 || err.Error() != "wrenn: no such" {
		t.Fatal(err)
	}
	want(t, err, ErrInvalidRequest)
	fake.socket = serveExec(`{"type":"error","code":"timeout","data":"too long"}`)
	_, err = fake.sandbox().Commands.Run(t.Context(), "x")
	want(t, err, ErrTimeout)
}

func TestInputGoesInFramesInOrder(t *testing.T) {
	fake := newFake(t)
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		for {
			frame, ok := hear(conn, r)
			switch {
			case !ok:
				return
			case frame["type"] == "start":
				say(conn, r, `{"type":"start","pid":5}`)
			case frame["type"] == "stdin":
				say(conn, r, `{"type":"stdout","data":"`+frame["data"].(string)+`"}`)
			case frame["type"] == "stdin_close":
				say(conn, r, `{"type":"exit","exit_code":0}`)
			}
		}
	}
	cmd := fake.sandbox().Commands.Command(t.Context(), "cat")
	cmd.Stdin = bytes.NewReader(pattern(100_000))
	result, err := cmd.Run()
	noError(t, err)
	if !bytes.Equal(result.Stdout, pattern(100_000)) {
		t.Fatal("other bytes")
	}
	cmd.Stdin = io.MultiReader(strings.NewReader("a"), readerFunc(func([]byte) (int, error) { return 0, os.ErrInvalid }))
	_, err = cmd.Run()
	want(t, err, os.ErrInvalid)
}

func TestStreamSignalsResizesAndEnds(t *testing.T) {
	fake := newFake(t, reply{status: 204})
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		_, _ = hear(conn, r)
		say(conn, r, `{"type":"start","pid":5}`, stdout("1", ""))
		frame, _ := hear(conn, r)
		say(conn, r, stdout(fmt.Sprint(frame["size"]), ""), `{"type":"exit","exit_code":9}`)
	}
	cmd := fake.sandbox().Commands.Command(t.Context(), "top")
	cmd.Terminal = &TerminalSize{Cols: 80, Rows: 24}
	handle, err := cmd.Start()
	noError(t, err)
	equal(t, handle.PID(), 5)
	equal(t, handle.ID(), "")
	noError(t, handle.SendSignal(t.Context(), ProcessSignalSIGINT))
	killed, err := handle.Kill(t.Context())
	noError(t, err)
	equal(t, killed, true)
	noError(t, handle.Resize(t.Context(), TerminalSize{Cols: 100, Rows: 30}))
	var all string
	for output, err := range handle.Output() {
		noError(t, err)
		all += string(output.Data)
	}
	equal(t, all, "1map[cols:100 rows:30]")
	code, ended := handle.ExitCode()
	equal(t, code, 9)
	equal(t, ended, true)
	killed, err = handle.Kill(t.Context())
	noError(t, err)
	equal(t, killed, false)
	equal(t, fake.asked[1].body+fake.asked[2].body, `{"pid":5,"signal":"SIGINT"}{"pid":5,"signal":"SIGKILL"}`)
}

func TestBrokenStreamIsAnError(t *testing.T) {
	fake := newFake(t)
	for _, frame := range []string{"not json", `{"type":"stdout","data":"%"}`} {
		fake.socket = serveExec(frame)
		_, err := fake.sandbox().Commands.Run(t.Context(), "x")
		want(t, err, ErrProtocol)
	}
	for _, end := range []func(*websocket.Conn){
		func(conn *websocket.Conn) { conn.CloseNow() },
		func(conn *websocket.Conn) { conn.Close(websocket.StatusNormalClosure, "") },
	} {
		fake.socket = func(conn *websocket.Conn, r *http.Request) {
			_, _ = hear(conn, r)
			say(conn, r, `{"type":"start","pid":5}`)
			end(conn)
		}
		_, err := fake.sandbox().Commands.Run(t.Context(), "x")
		want(t, err, ErrConnectionBroken)
	}
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		_ = conn.Write(r.Context(), websocket.MessageBinary, []byte("x"))
		_, _ = hear(conn, r)
		_, _ = hear(conn, r)
	}
	_, err := fake.sandbox().Commands.Run(t.Context(), "x")
	want(t, err, ErrProtocol)
}

func TestRefusedSocketIsAskedAgainOrTold(t *testing.T) {
	fake := newFake(t)
	fake.socket = serveExec(`{"type":"exit","exit_code":0}`)
	fake.refuse = []reply{refusal(503, "host_unavailable"), {cut: "before"}}
	_, err := fake.sandbox().Commands.Run(t.Context(), "x")
	noError(t, err)
	equal(t, len(fake.lines()), 3)
	fake.refuse = []reply{refusal(409, "invalid_state")}
	_, err = fake.sandbox().Commands.Run(t.Context(), "x")
	want(t, err, ErrInvalidState)
	fake.socket = func(_ *websocket.Conn, r *http.Request) { <-r.Context().Done() }
	_, err = fake.sandbox(ClientOptions{Timeout: 100 * time.Millisecond}).Commands.Run(t.Context(), "x")
	want(t, err, ErrTimeout)
	ctx, cancel := context.WithCancel(t.Context())
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		_, _ = hear(conn, r)
		say(conn, r, `{"type":"start","pid":5}`)
		cancel()
		_, _ = hear(conn, r)
	}
	_, err = fake.sandbox().Commands.Run(ctx, "x")
	want(t, err, context.Canceled)
	_, err = fake.sandbox().Commands.Run(ctx, "x")
	want(t, err, context.Canceled)
}

func TestBackgroundCommandSurvivesCuts(t *testing.T) {
	fake := newFake(t, reply{text: `{"id":"cmd-1","pid":7}`})
	var queries []string
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		if len(queries) == 1 {
			say(conn, r, attached, stdout("one", `,"next_offset":3`))
			conn.CloseNow()
			return
		}
		say(conn, r, attached, stdout("two", `,"next_offset":6`), `{"type":"exit","exit_code":0}`)
		_, _ = hear(conn, r)
	}
	cmd := fake.sandbox().Commands.Command(t.Context(), "make")
	cmd.CommandName, cmd.KeepAlive = "build", true
	handle, err := cmd.StartBackground()
	noError(t, err)
	result, err := handle.Wait()
	noError(t, err)
	equal(t, string(result.Stdout), "onetwo")
	equal(t, handle.PID(), 7)
	equal(t, strings.Join(queries, " "), "encoding=base64 encoding=base64&offset=3")
	equal(t, fake.asked[0].body, `{"args":[],"cmd":"make","keep_alive":true,"name":"build"}`)
}

func TestLostOutputIsToldAndReadingGoesOn(t *testing.T) {
	fake := newFake(t)
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, attached, `{"type":"dropped","bytes":10,"next_offset":10}`)
		say(conn, r, stdout("rest", `,"next_offset":14`), `{"type":"exit","exit_code":0}`)
		_, _ = hear(conn, r)
	}
	handle, err := fake.sandbox().Commands.Connect(t.Context(), "cmd-1", ConnectOptions{TailBytes: 100})
	noError(t, err)
	_, err = handle.Wait()
	var lost *OutputLostError
	if !errors.As(err, &lost) || lost.Bytes != 10 || !strings.Contains(err.Error(), "10 bytes") {
		t.Fatal(err)
	}
	result, err := handle.Wait()
	noError(t, err)
	equal(t, string(result.Stdout), "rest")
}

func TestBackgroundHandleHasItsRoutes(t *testing.T) {
	fake := newFake(t, reply{status: 204})
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, attached)
		_, _ = hear(conn, r)
	}
	handle, err := fake.sandbox().Commands.Connect(t.Context(), "build", ConnectOptions{Offset: 1})
	noError(t, err)
	noError(t, handle.SendStdin(t.Context(), []byte("abc")))
	noError(t, handle.CloseStdin(t.Context()))
	noError(t, handle.Resize(t.Context(), TerminalSize{Cols: 1, Rows: 2}))
	killed, err := handle.Kill(t.Context())
	noError(t, err)
	equal(t, killed, true)
	lines := joined(fake.lines()[1:])
	place := "POST /v1/sandboxes/" + testID + "/commands/cmd-1/"
	equal(t, lines, place+"stdin\n"+place+"stdin?close=true\n"+place+"resize\n"+place+"signal")
	handle.Disconnect()
	_, err = handle.Next()
	want(t, err, ErrConnectionBroken)
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, `{"type":"error","code":"not_found","data":"none"}`)
		_, _ = hear(conn, r)
	}
	_, err = fake.sandbox().Commands.Connect(t.Context(), "x")
	want(t, err, ErrNotFound)
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, attached, `{"type":"error","code":"invalid_state","data":"paused"}`)
		_, _ = hear(conn, r)
	}
	handle, err = fake.sandbox().Pty.Connect(t.Context(), "x")
	noError(t, err)
	_, err = handle.Wait()
	want(t, err, ErrInvalidState)
}

func TestTerminalHasSizeAndCommand(t *testing.T) {
	fake := newFake(t, reply{text: `{"id":"cmd-1"}`})
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, attached)
		_, _ = hear(conn, r)
	}
	options := PtyOptions{Command: []string{"top", "-b"}, Env: map[string]string{"TERM": "dumb"}}
	_, err := fake.sandbox().Pty.Create(t.Context(), TerminalSize{Cols: 80, Rows: 24}, options)
	noError(t, err)
	for _, part := range []string{`"cmd":"top"`, `"TERM":"dumb"`, `"terminal":{"cols":80,"rows":24}`} {
		if !strings.Contains(fake.asked[0].body, part) {
			t.Fatal(fake.asked[0].body)
		}
	}
}

func TestFormHasFieldsAndFile(t *testing.T) {
	fake := newFake(t, reply{status: 204})
	for _, data := range []io.Reader{strings.NewReader("grüße"), io.MultiReader(strings.NewReader("grüße"))} {
		noError(t, fake.sandbox().Files.Write(t.Context(), "/a", data, WriteOptions{User: "root", Mode: 0o755}))
	}
	for _, request := range fake.asked {
		_, parameters, err := mime.ParseMediaType(request.header.Get("Content-Type"))
		noError(t, err)
		form, err := multipart.NewReader(strings.NewReader(request.body), parameters["boundary"]).ReadForm(1 << 20)
		noError(t, err)
		equal(t, fmt.Sprint(form.Value), "map[mode:[0755] path:[/a] user:[root]]")
		file, err := form.File["file"][0].Open()
		noError(t, err)
		text, err := io.ReadAll(file)
		noError(t, err)
		equal(t, string(text), "grüße")
	}
}

func TestBytesAreSentAgainAndStreamsAreNot(t *testing.T) {
	fake := newFake(t, refusal(429, "resource_exhausted"), reply{status: 204})
	noError(t, fake.sandbox().Files.Write(t.Context(), "a", strings.NewReader("text")))
	equal(t, fake.asked[0].body, fake.asked[1].body)
	fake.answerWith(refusal(429, "resource_exhausted"), reply{status: 204})
	err := fake.sandbox().Files.Write(t.Context(), "a", io.MultiReader(strings.NewReader("text")))
	want(t, err, ErrResourceExhausted)
	fake.answerWith(reply{cut: "after"}, reply{status: 204})
	err = fake.sandbox().Files.Write(t.Context(), "a", strings.NewReader("text"))
	want(t, err, ErrConnectionBroken)
	equal(t, len(fake.lines()), 4)
	failing := io.MultiReader(strings.NewReader("a"), readerFunc(func([]byte) (int, error) { return 0, os.ErrInvalid }))
	want(t, fake.sandbox().Files.Write(t.Context(), "a", failing), os.ErrInvalid)
	fake.answerWith(reply{status: 204})
	noError(t, fake.sandbox().Files.WriteArchive(t.Context(), "a", strings.NewReader("")))
}

// zeroes gives bytes and keeps none.
type zeroes struct{ left int }

func (z *zeroes) Read(buffer []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(buffer), z.left)
	clear(buffer[:n])
	z.left -= n
	return n, nil
}

func TestFiftyMegabytesPassInBoundedMemory(t *testing.T) {
	const size = 50_000_000
	fake := newFake(t)
	// The server of this test keeps nothing either.
	fake.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.Header.Get("Content-Type") == "application/json" {
			_, _ = io.Copy(w, &zeroes{size})
		} else if n < size {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	files := fake.sandbox().Files
	before := allocated()
	noError(t, files.Write(t.Context(), "a", &zeroes{size}))
	counted := &counter{}
	noError(t, files.Download(t.Context(), "a", counted))
	equal(t, counted.n, size)
	if grown := allocated() - before; grown > size/5 {
		t.Fatalf("%d bytes were allocated", grown)
	}
}

// allocated returns the number of bytes that were ever allocated.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

type counter struct{ n int }

func (c *counter) Write(data []byte) (int, error) {
	c.n += len(data)
	return len(data), nil
}

func TestStreamThatBreaksOffIsAnError(t *testing.T) {
	fake := newFake(t, reply{cut: "half", text: strings.Repeat("x", 1000)})
	reader, err := fake.sandbox().Files.Open(t.Context(), "a")
	noError(t, err)
	_, err = io.ReadAll(reader)
	want(t, err, ErrConnectionBroken)
	noError(t, reader.Close())
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, err = fake.sandbox().Files.Open(ctx, "a")
	noError(t, err)
	cancel()
	_, err = io.ReadAll(reader)
	want(t, err, context.Canceled)
}

func TestSearchHasMatchesAndSummary(t *testing.T) {
	match := `{"type":"match","path":"/a","kind":"file"}` + "\n"
	end := `{"type":"end","searched":1,"binary":0,"unreadable":0,"incomplete":"limit"}`
	fake := newFake(t, reply{text: match + "\n" + end}, reply{text: match}, reply{text: "nonsense\n"})
	search, err := fake.sandbox().Files.Search(t.Context(), "/", SearchOptions{Name: "a", Depth: 2})
	noError(t, err)
	matches, err := collect(search.Matches())
	noError(t, err)
	equal(t, len(matches), 1)
	equal(t, *search.Summary().Incomplete, "limit")
	for _, target := range []error{ErrConnectionBroken, ErrProtocol} {
		search, err = fake.sandbox().Files.Search(t.Context(), "/", SearchOptions{Name: "a"})
		noError(t, err)
		_, err = collect(search.Matches())
		want(t, err, target)
	}
	fake.replies = []reply{{text: match + match}}
	search, err = fake.sandbox().Files.Search(t.Context(), "/", SearchOptions{Name: "a"})
	noError(t, err)
	for range search.Matches() {
		break
	}
}

func TestDiffHasChangesAndSummary(t *testing.T) {
	start := `{"type":"start","from":"a","from_unflushed":true}` + "\n"
	change := `{"type":"change","path":"/a","unreadable":true}` + "\n"
	end := `{"type":"end","compared":5,"unreadable":1,"incomplete":"time"}` + "\n"
	fake := newFake(t, reply{text: start + change + end})
	found, err := fake.sandbox().Diff(t.Context())
	noError(t, err)
	changes, err := collect(found.Changes())
	noError(t, err)
	equal(t, len(changes), 1)
	equal(t, changes[0].Path, "/a")
	equal(t, *found.Summary(), DiffSummary{From: "a", FromUnflushed: true, Compared: 5, Unreadable: 1, Incomplete: "time"})
	for _, text := range []string{start + change, start + "no JSON\n"} {
		fake.answerWith(reply{text: text})
		found, err = fake.sandbox().Diff(t.Context())
		noError(t, err)
		_, err = collect(found.Changes())
		if err == nil || found.Summary() != nil {
			t.Fatal(err, found.Summary())
		}
	}
}

func TestWatchGivesChangesUntilItsEnd(t *testing.T) {
	fake := newFake(t)
	serve := func(frames ...string) {
		fake.socket = func(conn *websocket.Conn, r *http.Request) {
			say(conn, r, frames...)
			_, _ = hear(conn, r)
		}
	}
	started := `{"type":"started"}`
	serve(started, `{"type":"create","path":"/a","is_directory":true}`, `{"type":"ended","data":"removed"}`)
	watch, err := fake.sandbox().Files.WatchDir(t.Context(), "/d", FileOptions{Recursive: true, User: "root"})
	noError(t, err)
	for event, err := range watch.Events() {
		noError(t, err)
		equal(t, *event.Path, "/a")
	}
	if !strings.HasSuffix(fake.lines()[0], "path=%2Fd&recursive=true&user=root") {
		t.Fatal(fake.lines())
	}
	serve(`{"type":"error","code":"not_found","data":"none"}`)
	_, err = fake.sandbox().Files.WatchDir(t.Context(), "/d")
	want(t, err, ErrNotFound)
	serve(started, `{"type":"error","code":"invalid_state","data":"paused"}`)
	watch, err = fake.sandbox().Files.WatchDir(t.Context(), "/d")
	noError(t, err)
	_, err = watch.Next()
	want(t, err, ErrInvalidState)
	_, err = watch.Next()
	want(t, err, io.EOF)
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, started)
		conn.CloseNow()
	}
	watch, err = fake.sandbox().Files.WatchDir(t.Context(), "/d")
	noError(t, err)
	_, err = watch.Next()
	want(t, err, ErrConnectionBroken)
}

func TestUploadGoesOnWhereItBroke(t *testing.T) {
	fake := newFake(t)
	content := pattern(300_000)
	var arrived []byte
	cuts := []int{100_000, 0, 50_000}
	fake.handle = func(w http.ResponseWriter, r *http.Request, body string) {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", "/v1/somewhere/files/uploads/0a1b")
			w.WriteHeader(http.StatusCreated)
			return
		case http.MethodPatch:
			if len(cuts) > 0 {
				arrived = append(arrived, body[:cuts[0]]...)
				cuts = cuts[1:]
				reset(w)
				return
			}
			arrived = append(arrived, body...)
		}
		w.Header().Set("Upload-Offset", strconv.Itoa(len(arrived)))
	}
	options := WriteOptions{User: "root", Mode: 0o640, SHA256: "00"}
	noError(t, fake.sandbox().Files.Upload(t.Context(), bytes.NewReader(content), int64(len(content)), "/é", options))
	if !bytes.Equal(arrived, content) {
		t.Fatal("other bytes arrived")
	}
	equal(t, fake.asked[0].header.Get("Upload-Metadata"), "path L8Op,user cm9vdA==,mode MDY0MA==,sha256 MDA=")
}

func TestUploadThatIsRefusedIsDeleted(t *testing.T) {
	fake := newFake(t)
	deleted := false
	patch := refusal(507, "insufficient_storage")
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", "/0a1b")
		case http.MethodPatch:
			patch.write(w)
		case http.MethodDelete:
			deleted = true
		}
	}
	files := fake.sandbox().Files
	want(t, files.Upload(t.Context(), strings.NewReader("abc"), 3, "a"), ErrInsufficientStorage)
	equal(t, deleted, true)
	patch = reply{status: 204}
	want(t, files.Upload(t.Context(), strings.NewReader("abc"), 3, "a"), ErrProtocol)
	patch = reply{cut: "after"}
	want(t, files.Upload(t.Context(), strings.NewReader("abc"), 3, "a"), ErrProtocol)
	fake.handle = nil
	fake.replies = []reply{{status: 201}}
	want(t, files.Upload(t.Context(), strings.NewReader("abc"), 3, "a"), ErrProtocol)
	fake.replies = []reply{refusal(403, "forbidden")}
	want(t, files.Upload(t.Context(), strings.NewReader("abc"), 3, "a"), ErrForbidden)
}

// serveEcho sends back what comes, and ends its direction when the other one ends.
func serveEcho(conn *websocket.Conn, r *http.Request) {
	for {
		kind, data, err := conn.Read(r.Context())
		if err != nil || conn.Write(r.Context(), kind, data) != nil {
			return
		}
		if len(data) == 0 {
			_, _, _ = conn.Read(r.Context())
			return
		}
	}
}

func TestFiftyMegabytesPassThroughPort(t *testing.T) {
	const size = 50_000_000
	fake := newFake(t)
	fake.socket = serveEcho
	conn, err := fake.sandbox().DialPort(t.Context(), 80)
	noError(t, err)
	defer conn.Close()
	equal(t, conn.RemoteAddr().Network()+conn.RemoteAddr().String()+conn.LocalAddr().String(), "wrenn"+testID+":80:0")
	sending := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{conn}, &zeroes{size})
		sending <- errors.Join(err, conn.CloseWrite())
	}()
	counted := &counter{}
	_, err = io.Copy(counted, struct{ io.Reader }{conn})
	noError(t, err)
	noError(t, <-sending)
	equal(t, counted.n, size)
	n, err := conn.Read(make([]byte, 1))
	equal(t, n, 0)
	want(t, err, io.EOF)
}

func TestPassedDeadlineLeavesConnectionUsable(t *testing.T) {
	fake := newFake(t)
	fake.socket = serveEcho
	conn, err := fake.sandbox().DialPort(t.Context(), 80)
	noError(t, err)
	defer conn.Close()
	// One that passes while nothing waits, as pools leave it, and one that ends a read.
	noError(t, conn.SetDeadline(time.Now().Add(-time.Second)))
	_, err = conn.Write([]byte("lost"))
	want(t, err, os.ErrDeadlineExceeded)
	noError(t, conn.SetDeadline(time.Time{}))
	noError(t, conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err = conn.Read(make([]byte, 8))
	want(t, err, os.ErrDeadlineExceeded)
	noError(t, conn.SetReadDeadline(time.Now().Add(time.Hour)))
	_, err = conn.Write([]byte("ping"))
	noError(t, err)
	buffer := make([]byte, 8)
	n, err := conn.Read(buffer)
	noError(t, err)
	equal(t, string(buffer[:n]), "ping")
	noError(t, conn.CloseWrite())
	_, err = conn.Read(buffer)
	want(t, err, io.EOF)
}

func TestHeldWriteEndsWithItsDeadline(t *testing.T) {
	fake := newFake(t)
	fake.socket = func(_ *websocket.Conn, r *http.Request) { <-r.Context().Done() }
	conn, err := fake.sandbox().DialPort(t.Context(), 80)
	noError(t, err)
	defer conn.Close()
	noError(t, conn.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
	_, err = io.Copy(struct{ io.Writer }{conn}, &zeroes{100_000_000})
	want(t, err, os.ErrDeadlineExceeded)
}

func TestPortHasDeadlinesAndEnds(t *testing.T) {
	fake := newFake(t)
	fake.socket = func(conn *websocket.Conn, r *http.Request) { _, _ = hear(conn, r); _, _ = hear(conn, r) }
	dial := func() *PortConn {
		conn, err := fake.sandbox().DialPort(t.Context(), 80)
		noError(t, err)
		return conn
	}
	conn := dial()
	noError(t, conn.SetDeadline(time.Now().Add(time.Hour)))
	noError(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := conn.Read(make([]byte, 1))
	want(t, err, os.ErrDeadlineExceeded)
	noError(t, conn.Close())
	closed := dial()
	noError(t, closed.Close())
	_, err = closed.Read(make([]byte, 1))
	want(t, err, net.ErrClosed)
	if _, err = closed.Write([]byte("x")); err == nil {
		t.Fatal("it wrote")
	}
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, "ignored")
		conn.Close(websocket.StatusNormalClosure, "")
	}
	_, err = dial().Read(make([]byte, 1))
	want(t, err, ErrConnectionBroken)
	fake.refuse = []reply{refusal(404, "not_found")}
	_, err = fake.sandbox().DialPort(t.Context(), 80)
	want(t, err, ErrNotFound)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = fake.sandbox().DialPort(ctx, 80)
	want(t, err, context.Canceled)
}

func TestEventsComeInPagesUpToLimit(t *testing.T) {
	page := "[" + strings.TrimSuffix(strings.Repeat(`{"cursor":"1"},`, 1000), ",") + "]"
	next := map[string]string{"X-Next-Cursor": "9"}
	fake := newFake(t, reply{text: page, header: next}, reply{text: `[{"cursor":"2"}]`, header: next})
	events, err := collect(fake.client().Events.List(t.Context(), EventFilter{Cursor: "3"}))
	noError(t, err)
	equal(t, len(events), 1001)
	equal(t, joined(fake.lines()), "GET /v1/events?cursor=3&limit=1000\nGET /v1/events?cursor=9&limit=1000")
	filter := EventFilter{Types: []string{"a.*", "b"}, Since: time.Unix(0, 0), Limit: 1}
	events, err = collect(fake.client().Events.List(t.Context(), filter))
	noError(t, err)
	equal(t, len(events), 1)
	equal(t, fake.lines()[2], "GET /v1/events?limit=1&since=1970-01-01T00%3A00%3A00Z&type=a.%2A%2Cb")
	for range fake.client().Events.List(t.Context()) {
		break
	}
}

func TestEventStreamGoesOnWhereItBroke(t *testing.T) {
	event := func(cursor int) string {
		return fmt.Sprintf("id: %d\nevent: sandbox.paused\ndata: {\"cursor\":\"%d\"}\n\n", cursor, cursor)
	}
	var asked []string
	fake := newFake(t)
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		asked = append(asked, r.Header.Get("Last-Event-Id"))
		switch len(asked) {
		case 1:
			_, _ = io.WriteString(w, ": hello\nid: 4\n\n"+event(5)+event(6)[:30])
			_ = http.NewResponseController(w).Flush()
			reset(w)
		case 2:
			_, _ = io.WriteString(w, event(6))
		case 3:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			_, _ = io.WriteString(w, event(7)+"event: error\ndata: "+refusal(410, "expired").text+"\n\n")
		}
	}
	stream, err := fake.client(ClientOptions{Retries: -1}).Events.Stream(t.Context(), EventFilter{Cursor: "3", Sandbox: "s"})
	noError(t, err)
	var seen []string
	for event, streamErr := range stream.All() {
		if err = streamErr; err == nil {
			seen = append(seen, event.Cursor)
		}
	}
	want(t, err, ErrExpired)
	equal(t, strings.Join(seen, " "), "5 6 7")
	equal(t, strings.Join(asked, " "), "3 5 6 6")
	equal(t, stream.Cursor(), "7")
}

func TestEventStreamEndsWhenItIsClosed(t *testing.T) {
	fake := newFake(t)
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		_, _ = io.WriteString(w, "data: {\"cursor\":\"1\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	stream, err := fake.client().Events.Stream(t.Context())
	noError(t, err)
	_, err = stream.Next()
	noError(t, err)
	time.AfterFunc(20*time.Millisecond, func() { stream.Close() })
	_, err = stream.Next()
	want(t, err, io.EOF)
	ctx, cancel := context.WithCancel(t.Context())
	other, err := fake.client().Events.Stream(ctx)
	noError(t, err)
	_, err = other.Next()
	noError(t, err)
	cancel()
	_, err = other.Next()
	want(t, err, context.Canceled)
	for _, text := range []string{"data: nonsense\n\n", "event: error\ndata: nonsense\n\n"} {
		broken, err := newFake(t, reply{text: text}).client().Events.Stream(t.Context())
		noError(t, err)
		_, err = broken.Next()
		want(t, err, ErrProtocol)
	}
}
