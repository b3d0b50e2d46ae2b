package wrenn

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// impatient returns a sandbox whose streams are given up at the second failure in a row.
func impatient(fake *fakeServer) *Sandbox {
	client := fake.client(ClientOptions{Retries: -1})
	client.patience = 1
	return client.newSandbox(&SandboxInfo{ID: testID})
}

func TestQuietFollowerSurvivesManyBreaks(t *testing.T) {
	fake := newFake(t)
	var connections atomic.Int32
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		number := connections.Add(1)
		say(conn, r, attached)
		if number == 3 {
			say(conn, r, stdout("late", `,"next_offset":4`), `{"type":"exit","exit_code":0}`)
			_, _ = hear(conn, r)
		}
	}
	handle, err := impatient(fake).Commands.Connect(t.Context(), "cmd-1")
	noError(t, err)
	result, err := handle.Wait()
	noError(t, err)
	equal(t, string(result.Stdout), "late")
	equal(t, connections.Load(), 3)

	connections.Store(0)
	handle, err = impatient(fake).Commands.Connect(t.Context(), "cmd-1")
	noError(t, err)
	fake.mutex.Lock()
	for range 5 {
		fake.refuse = append(fake.refuse, refusal(503, "host_unavailable"))
	}
	fake.mutex.Unlock()
	_, err = handle.Wait()
	want(t, err, ErrHostUnavailable)
}

func TestLostExitCodeIsNotAskedAgain(t *testing.T) {
	fake := newFake(t)
	var connections atomic.Int32
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		if connections.Add(1) == 1 {
			say(conn, r, `{"type":"error","code":"agent_error","data":"the host was lost"}`)
			return
		}
		say(conn, r, attached, `{"type":"error","code":"agent_error","data":"the end is not known"}`)
	}
	fake.replies = []reply{{text: `{"id":"cmd-1","pid":7}`}}
	handle, err := fake.sandbox().Commands.Start(t.Context(), "x")
	noError(t, err)
	_, err = handle.Wait()
	want(t, err, ErrAgent)
	equal(t, connections.Load(), 2)
}

func TestStartedCommandKeepsItsId(t *testing.T) {
	fake := newFake(t, reply{text: `{"id":"cmd-1","pid":7}`})
	fake.refuse = []reply{refusal(503, "host_unavailable")}
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		say(conn, r, attached, `{"type":"exit","exit_code":0}`)
		_, _ = hear(conn, r)
	}
	handle, err := fake.sandbox(ClientOptions{Retries: -1}).Commands.Start(t.Context(), "x")
	noError(t, err)
	equal(t, handle.ID(), "cmd-1")
	equal(t, handle.PID(), 7)
	_, err = handle.Wait()
	noError(t, err)
}

func TestQuietEventStreamSurvivesManyBreaks(t *testing.T) {
	fake := newFake(t)
	connections := 0
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		connections++
		_, _ = io.WriteString(w, "id: c"+strconv.Itoa(connections)+"\n\n")
		if connections == 4 {
			_, _ = io.WriteString(w, `data: {"type":"sandbox.created"}`+"\n\n")
		}
		_ = http.NewResponseController(w).Flush()
		reset(w)
	}
	client := fake.client(ClientOptions{Retries: -1})
	client.patience = 1
	stream, err := client.Events.Stream(t.Context())
	noError(t, err)
	defer stream.Close()
	event, err := stream.Next()
	noError(t, err)
	equal(t, string(event.Type), "sandbox.created")
	equal(t, stream.Cursor(), "c4")
	fake.mutex.Lock()
	fake.handle = nil
	fake.mutex.Unlock()
	fake.answerWith(refusal(503, "host_unavailable"))
	_, err = stream.Next()
	want(t, err, ErrHostUnavailable)
}

func TestUploadSurvivesOutageAndConflict(t *testing.T) {
	fake := newFake(t)
	outage, hadConflict := 5, false
	arrived := ""
	fake.handle = func(w http.ResponseWriter, r *http.Request, body string) {
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Location", "/0a1b")
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodPatch && arrived == "":
			arrived = body[:2]
			reset(w)
		case r.Method == http.MethodPatch && !hadConflict:
			// A byte of the part before arrived late.
			hadConflict = true
			arrived += body[:1]
			refusal(409, "conflict").write(w)
		case r.Method == http.MethodHead && outage > 0:
			outage--
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			if r.Method == http.MethodPatch {
				arrived += body
			}
			w.Header().Set("Upload-Offset", strconv.Itoa(len(arrived)))
		}
	}
	client := fake.client(ClientOptions{Retries: -1})
	files := client.newSandbox(&SandboxInfo{ID: testID}).Files
	noError(t, files.Upload(t.Context(), strings.NewReader("abcdef"), 6, "a"))
	equal(t, arrived, "abcdef")
	equal(t, outage, 0)
}

// slowly gives a byte at a time, each later than the last but within the time.
func slowly(count int) io.Reader {
	return readerFunc(func(buffer []byte) (int, error) {
		if count--; count < 0 {
			return 0, io.EOF
		}
		time.Sleep(30 * time.Millisecond)
		buffer[0] = 'x'
		return 1, nil
	})
}

func TestDataHasTimeWhileItMoves(t *testing.T) {
	fake := newFake(t, reply{status: 204})
	files := fake.sandbox(ClientOptions{Timeout: 250 * time.Millisecond}).Files
	noError(t, files.Write(t.Context(), "a", slowly(20)))
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		_, _ = io.Copy(flushWriter{w}, slowly(20))
	}
	data, err := files.Read(t.Context(), "a")
	noError(t, err)
	equal(t, len(data), 20)
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	_, err = files.Read(t.Context(), "a")
	want(t, err, ErrConnectionBroken)
	want(t, err, errStalled)
	reader, err := files.Open(t.Context(), "a")
	noError(t, err)
	_, err = io.ReadAll(reader)
	want(t, err, errStalled)
}

type flushWriter struct{ http.ResponseWriter }

func (f flushWriter) Write(data []byte) (int, error) {
	n, err := f.ResponseWriter.Write(data)
	_ = http.NewResponseController(f.ResponseWriter).Flush()
	return n, err
}

func TestRetryAfterBeyondTimeIsReported(t *testing.T) {
	late := refusal(429, "resource_exhausted")
	late.header = map[string]string{"Retry-After": "3600"}
	fake := newFake(t, late)
	_, err := fake.client().Get(t.Context(), testID)
	want(t, err, ErrResourceExhausted)
	fake.refuse = []reply{late}
	_, err = fake.sandbox().Commands.Run(t.Context(), "x")
	want(t, err, ErrResourceExhausted)
}

func TestStartCopiesStdin(t *testing.T) {
	fake := newFake(t)
	fake.socket = func(conn *websocket.Conn, r *http.Request) {
		_, _ = hear(conn, r)
		say(conn, r, `{"type":"start","pid":5}`)
		frame, _ := hear(conn, r)
		say(conn, r, `{"type":"stdout","data":"`+frame["data"].(string)+`"}`)
		if frame, _ = hear(conn, r); frame["type"] == "stdin_close" {
			say(conn, r, `{"type":"exit","exit_code":0}`)
		}
		_, _ = hear(conn, r)
	}
	cmd := fake.sandbox().Commands.Command(t.Context(), "cat")
	cmd.Stdin = strings.NewReader("in")
	handle, err := cmd.Start()
	noError(t, err)
	result, err := handle.Wait()
	noError(t, err)
	equal(t, string(result.Stdout), "in")
	_, err = cmd.StartBackground()
	want(t, err, ErrInvalidRequest)
	cmd.Stdout = io.Discard
	_, err = cmd.Start()
	want(t, err, ErrInvalidRequest)
}

// An answer that comes while the body is sent: net/http may read the body of the attempt before during the next one.
func TestRefusedWriteIsSentAgainWhole(t *testing.T) {
	fake := newFake(t)
	content := pattern(3_000_000)
	attempts := 0
	fake.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if attempts++; attempts < 3 {
			refusal(429, "resource_exhausted").write(w)
			return
		}
		text, _ := io.ReadAll(r.Body)
		if !bytes.Contains(text, content) {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	noError(t, fake.sandbox().Files.Write(t.Context(), "a", bytes.NewReader(content)))
	equal(t, attempts, 3)
}

func TestReaderIsLeftAloneAfterWrite(t *testing.T) {
	reader := &source{reader: strings.NewReader("text"), isOnce: true}
	open, _ := reader.open()
	_ = reader.close(nil)
	_, err := open.Read(make([]byte, 1))
	want(t, err, os.ErrClosed)
	_, err = io.Copy(io.Discard, reader.reader)
	noError(t, err)
}
