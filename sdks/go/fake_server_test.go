package wrenn

// A server in this process that answers as a test says, and notes what it was asked.

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

const testID = "sb-0123456789abcdefghij"

const testInfo = `{"id":"` + testID + `","status":"running","template":"minimal","vcpus":1,"memory_mb":512,` +
	`"timeout_sec":300,"labels":{"a":"b"},"reason":null,"created_at":"t","last_updated":"t"}`

type asked struct {
	line   string
	header http.Header
	body   string
}

// reply is what is answered; cut is a connection that breaks instead, "before" or "after" the request was read, or
// "half" of the text.
type reply struct {
	status int
	text   string
	header map[string]string
	cut    string
}

type fakeServer struct {
	*httptest.Server
	mutex sync.Mutex
	asked []asked
	// replies in the order of requests; the last one stays.
	replies []reply
	// handle, instead of replies.
	handle func(w http.ResponseWriter, r *http.Request, body string)
	// refuse sockets with these.
	refuse []reply
	// socket serves what is opened.
	socket func(conn *websocket.Conn, r *http.Request)
}

func newFake(t *testing.T, replies ...reply) *fakeServer {
	t.Helper()
	fake := &fakeServer{replies: replies}
	if len(replies) == 0 {
		fake.replies = []reply{{text: testInfo}}
	}
	fake.Server = httptest.NewServer(http.HandlerFunc(fake.serve))
	t.Cleanup(func() {
		fake.CloseClientConnections()
		fake.Server.Close()
	})
	return fake
}

func (f *fakeServer) client(options ...ClientOptions) *Client {
	selected := firstOption(options)
	selected.APIURL, selected.APIKey = f.URL, "wrn_test"
	return NewClient(selected)
}

func (f *fakeServer) sandbox(options ...ClientOptions) *Sandbox {
	return f.client(options...).newSandbox(&SandboxInfo{ID: testID})
}

// answerWith sets the replies while requests may still be served.
func (f *fakeServer) answerWith(replies ...reply) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.replies = replies
}

func (f *fakeServer) lines() []string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	var lines []string
	for _, request := range f.asked {
		lines = append(lines, request.line)
	}
	return lines
}

func (f *fakeServer) take() (reply, func(http.ResponseWriter, *http.Request, string)) {
	next := reply{}
	if len(f.replies) > 0 {
		next = f.replies[0]
	}
	if len(f.replies) > 1 {
		f.replies = f.replies[1:]
	}
	return next, f.handle
}

func (f *fakeServer) serve(w http.ResponseWriter, r *http.Request) {
	request := asked{line: r.Method + " " + r.URL.RequestURI(), header: r.Header.Clone()}
	if r.Header.Get("Upgrade") != "" {
		f.serveSocket(w, r, request)
		return
	}
	f.mutex.Lock()
	next, handle := f.take()
	f.mutex.Unlock()
	if next.cut != "before" || handle != nil {
		text, _ := io.ReadAll(r.Body)
		request.body = string(text)
	}
	f.mutex.Lock()
	f.asked = append(f.asked, request)
	f.mutex.Unlock()
	if handle != nil {
		handle(w, r, request.body)
		return
	}
	next.write(w)
}

func (next reply) write(w http.ResponseWriter) {
	if next.cut == "before" || next.cut == "after" {
		reset(w)
		return
	}
	for name, value := range next.header {
		w.Header().Set(name, value)
	}
	if next.status != 0 {
		w.WriteHeader(next.status)
	}
	if next.cut == "half" {
		_, _ = io.WriteString(w, next.text[:len(next.text)/2])
		_ = http.NewResponseController(w).Flush()
		reset(w)
		return
	}
	_, _ = io.WriteString(w, next.text)
}

// reset closes a connection as a machine that dies does.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func (f *fakeServer) serveSocket(w http.ResponseWriter, r *http.Request, request asked) {
	f.mutex.Lock()
	f.asked = append(f.asked, request)
	var refusal *reply
	if len(f.refuse) > 0 {
		refusal = &f.refuse[0]
		f.refuse = f.refuse[1:]
	}
	f.mutex.Unlock()
	if refusal != nil {
		refusal.write(w)
		return
	}
	// Before the client learns of it: a test may set another one then.
	serve := f.socket
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	conn.SetReadLimit(maxFrame)
	defer conn.CloseNow()
	serve(conn, r)
}

// say sends frames of JSON.
func say(conn *websocket.Conn, r *http.Request, frames ...string) {
	for _, frame := range frames {
		if conn.Write(r.Context(), websocket.MessageText, []byte(frame)) != nil {
			return
		}
	}
}

// hear reads a frame of the client; false when it has hung up.
func hear(conn *websocket.Conn, r *http.Request) (map[string]any, bool) {
	_, text, err := conn.Read(r.Context())
	var frame map[string]any
	return frame, err == nil && json.Unmarshal(text, &frame) == nil
}

func stdout(text string, next string) string {
	return `{"type":"stdout","data":"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"` + next + `}`
}

func refusal(status int, code string) reply {
	return reply{status: status, text: `{"error":{"code":"` + code + `","message":"refused with ` + code + `"}}`}
}

// want fails unless an error is another one.
func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("%v is not %v", err, target)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Fatalf("%v, not %v", got, wanted)
	}
}

func joined(lines []string) string { return strings.Join(lines, "\n") }
