package wrenn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// callTimeout is the time of a call whose context has no deadline, with its retries.
	callTimeout = time.Minute
	// longCallTimeout is that of calls that save, copy or start a machine.
	longCallTimeout = 5 * time.Minute
	// firstPause is the pause before the first retry; it doubles with each, and is up to a quarter longer by chance.
	firstPause     = 200 * time.Millisecond
	defaultRetries = 3
	// maxErrorBody is the number of bytes of an error body that are read; an error of the API is far smaller.
	maxErrorBody = 64 << 10

	version   = "0.1.0"
	userAgent = "wrenn-go/" + version
)

// repeatable are the operations by POST and PATCH that change nothing, or the same when they are done twice.
var repeatable = map[string]bool{
	"change_mode": true, "change_owner": true, "create_port_link": true, "keep_sandbox_alive": true, "list_files": true,
	"pause_sandbox": true, "ping_sandbox": true, "read_file": true, "resume_sandbox": true, "search_files": true,
	"stat_file": true, "stream_read_file": true,
}

// call is a request, and how it may be treated.
type call struct {
	operation string
	path      map[string]string
	query     url.Values
	// body is sent as JSON.
	body any
	// stream makes the body anew for each attempt, with its length, or -1.
	stream      func() (io.Reader, int64)
	contentType string
	header      http.Header
	// isRepeatable is true for a request with an idempotency key, and for bytes that may be written twice.
	isRepeatable bool
	// isOnce is true for a body that can be read only once.
	isOnce bool
	isLong bool
	// isData is true for a call that carries data of any size: it may take as long as something moves.
	isData bool
	// wait is the time that the server may wait before it answers, beside the time of the call.
	wait time.Duration
	// silence, if not 0, is the time without a byte after which a stream that was opened is broken.
	silence time.Duration
}

// errStalled ends a call on which nothing has moved for too long.
var errStalled = errors.New("nothing was sent and nothing came for too long")

// budget is the time of a call, if the caller's context has no deadline. That of a call that carries data begins anew
// with each part of it.
type budget struct {
	context.Context
	// end is the time when it is over; zero where that is not known.
	end    time.Time
	limit  time.Duration
	timer  *time.Timer
	isData bool
	cancel context.CancelCauseFunc
}

func (c *Client) budget(ctx context.Context, request *call) *budget {
	b := &budget{limit: c.options.Timeout, isData: request.isData}
	if b.limit == 0 {
		b.limit = callTimeout
		if request.isLong || request.isData {
			b.limit = longCallTimeout
		}
		b.limit += request.wait
	}
	b.Context, b.cancel = context.WithCancelCause(ctx)
	deadline, hasDeadline := ctx.Deadline()
	switch {
	case hasDeadline:
		b.end = deadline
	case b.limit < 0:
	case b.isData:
		b.timer = time.AfterFunc(b.limit, func() { b.cancel(errStalled) })
	default:
		b.end = time.Now().Add(b.limit)
		b.timer = time.AfterFunc(b.limit, func() { b.cancel(context.DeadlineExceeded) })
	}
	return b
}

// allows returns true if a pause ends before the time is over.
func (b *budget) allows(pause time.Duration) bool {
	return b.end.IsZero() || time.Now().Add(pause).Before(b.end)
}

// moved notes that data was sent or came.
func (b *budget) moved() {
	if b.isData && b.timer != nil {
		b.timer.Reset(b.limit)
	}
}

// pause stops the time, where it is the caller who reads.
func (b *budget) pause() {
	if b.timer != nil {
		b.timer.Stop()
	}
}

func (b *budget) close() {
	b.pause()
	b.cancel(nil)
}

// movedReader notes what is read.
type movedReader struct {
	io.Reader
	budget *budget
}

func (m movedReader) Read(buffer []byte) (int, error) {
	n, err := m.Reader.Read(buffer)
	m.budget.moved()
	return n, err
}

// contextError returns the error of a call whose context is done.
func contextError(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		message := "no answer in time; ask for the state before the call is repeated"
		return &Error{Code: "timeout", Message: message, Cause: context.DeadlineExceeded}
	}
	if cause == errStalled {
		return broken(cause)
	}
	return cause
}

// json sends a request and reads its JSON answer into out, if that is not nil.
func (c *Client) json(ctx context.Context, request *call, out any) error {
	_, err := c.page(ctx, request, out)
	return err
}

// page does the same, and returns the header of the answer.
func (c *Client) page(ctx context.Context, request *call, out any) (http.Header, error) {
	var header http.Header
	budget := c.budget(ctx, request)
	defer budget.close()
	err := c.attempts(budget, request, func(response *http.Response) error {
		defer response.Body.Close()
		header = response.Header
		text, err := io.ReadAll(movedReader{response.Body, budget})
		if err != nil {
			return broken(err)
		}
		if out == nil || len(text) == 0 {
			return nil
		}
		if raw, ok := out.(*[]byte); ok {
			*raw = text
			return nil
		}
		if err := json.Unmarshal(text, out); err != nil {
			return unreadable(err)
		}
		return nil
	})
	return header, err
}

// open sends a request and returns the body of its answer as a stream.
func (c *Client) open(ctx context.Context, request *call) (*body, error) {
	budget := c.budget(ctx, request)
	var result *body
	err := c.attempts(budget, request, func(response *http.Response) error {
		result = &body{ReadCloser: response.Body, budget: budget}
		return nil
	})
	if err != nil {
		budget.close()
		return nil, err
	}
	budget.pause()
	if request.silence > 0 {
		budget.limit, budget.isData = request.silence, true
		budget.timer = time.AfterFunc(budget.limit, func() { budget.cancel(errStalled) })
		budget.pause()
	}
	return result, nil
}

// body is the body of an answer, with errors of this package.
type body struct {
	io.ReadCloser
	budget *budget
}

func (b *body) Read(buffer []byte) (int, error) {
	b.budget.moved()
	n, err := b.ReadCloser.Read(buffer)
	b.budget.pause()
	if err != nil && err != io.EOF {
		if b.budget.Err() != nil {
			return n, contextError(b.budget)
		}
		return n, broken(err)
	}
	return n, err
}

func (b *body) Close() error {
	b.budget.close()
	return b.ReadCloser.Close()
}

func (c *Client) attempts(ctx *budget, request *call, read func(*http.Response) error) error {
	settings, err := c.load()
	if err != nil {
		return err
	}
	method := routes[request.operation][0]
	address, err := addressOf(settings, request)
	if err != nil {
		return err
	}
	mayRepeat := !request.isOnce && (request.isRepeatable || repeatable[request.operation] || isRepeatableMethod(method))
	retries := c.retries()
	if request.isOnce {
		retries = 0
	}
	mayBeDone := false
	for attempt := 0; ; attempt++ {
		err := c.attempt(ctx, settings, method, address, request, read)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return contextError(ctx)
		}
		// What an attempt before this one deleted is no longer there.
		if mayBeDone && method == http.MethodDelete && errors.Is(err, ErrNotFound) {
			return nil
		}
		mayBeDone = mayBeDone || isUncertain(err)
		pause, ok := pauseBefore(err, attempt, mayRepeat)
		if !ok || attempt >= retries || !ctx.allows(pause) {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (c *Client) attempt(
	ctx *budget, settings *settings, method, address string, request *call, read func(*http.Response) error,
) error {
	dialing := &dialTrace{}
	message, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, dialing.trace()), method, address, nil)
	if err != nil {
		return err
	}
	c.setHeader(message.Header, settings)
	for name, values := range request.header {
		message.Header[name] = values
	}
	if err := setBody(message, request, ctx); err != nil {
		return err
	}
	response, err := c.http().Do(message)
	if err != nil {
		return dialing.describe(err)
	}
	if response.StatusCode < 300 {
		return read(response)
	}
	defer response.Body.Close()
	// A refusal whose body breaks off is one all the same: its status says it.
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	return errorFromAnswer(response.StatusCode, text, response.Header.Get)
}

func (c *Client) setHeader(header http.Header, settings *settings) {
	for name, values := range c.options.Header {
		header[name] = values
	}
	header.Set("User-Agent", userAgent)
	header.Set("X-Api-Key", settings.key)
}

func setBody(message *http.Request, request *call, budget *budget) error {
	switch {
	case request.stream != nil:
		reader, length := request.stream()
		message.Body = io.NopCloser(movedReader{reader, budget})
		message.ContentLength = length
		if length == 0 {
			message.Body = http.NoBody
		}
		message.Header.Set("Content-Type", request.contentType)
		if !request.isOnce {
			// For a connection that was closed while it waited: net/http takes another one if nothing was written.
			message.GetBody = func() (io.ReadCloser, error) {
				reader, _ := request.stream()
				return io.NopCloser(movedReader{reader, budget}), nil
			}
		}
	case request.body != nil:
		text, err := json.Marshal(request.body)
		if err != nil {
			return err
		}
		message.Body = io.NopCloser(bytes.NewReader(text))
		message.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
		message.ContentLength = int64(len(text))
		message.Header.Set("Content-Type", "application/json")
	}
	return nil
}

// addressOf returns the URL of an operation. Every segment is escaped, so that no id or name can leave its place.
func addressOf(settings *settings, request *call) (string, error) {
	segments := strings.Split(routes[request.operation][1], "/")
	for index, segment := range segments {
		name, isField := strings.CutPrefix(segment, "{")
		if !isField {
			continue
		}
		name = strings.TrimSuffix(name, "}")
		value := request.path[name]
		if value == "" || value == "." || value == ".." {
			return "", &Error{Code: "invalid_request", Message: strings.TrimSpace(value + " is no " + name)}
		}
		segments[index] = url.PathEscape(value)
	}
	address := settings.url.String() + strings.Join(segments, "/")
	if len(request.query) > 0 {
		address += "?" + request.query.Encode()
	}
	return address, nil
}

func isRepeatableMethod(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodPut || method == http.MethodDelete
}

// dialTrace notes whether a request had a connection on which it could be sent. One that failed without, at the name,
// the proxy or the certificate, did not reach the server. Transports that are not net/http's tell neither.
type dialTrace struct {
	isWanted atomic.Bool
	isThere  atomic.Bool
}

func (d *dialTrace) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { d.isWanted.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { d.isThere.Store(true) },
	}
}

// describe turns what net/http returns into an error of this package.
func (d *dialTrace) describe(err error) error {
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	var dialing *net.OpError
	var resolving *net.DNSError
	isDialing := errors.As(err, &dialing) && (dialing.Op == "dial" || dialing.Op == "proxyconnect")
	if isDialing || errors.As(err, &resolving) || (d.isWanted.Load() && !d.isThere.Load()) {
		message := "no connection to the server; is it running? Start it with `wrenn up`"
		return &Error{Code: "unreachable", Message: message, Cause: err}
	}
	return broken(err)
}

// isUncertain returns true for an error after which it is not known whether the request was carried out.
func isUncertain(err error) bool {
	var own *Error
	if !errors.As(err, &own) {
		return false
	}
	isOfProxy := own.isForeign && (own.Status == 502 || own.Status == 503 || own.Status == 504)
	return own.Code == "connection_broken" || isOfProxy
}

// pauseBefore returns the time to wait before a request is sent again, and whether it may be.
func pauseBefore(err error, attempt int, mayRepeat bool) (time.Duration, bool) {
	pause := firstPause << attempt
	pause += rand.N(pause/4 + 1)
	var own *Error
	if !errors.As(err, &own) {
		return 0, false
	}
	switch {
	case own.Code == "unreachable":
		return pause, true
	case own.Status == 429 || (own.Status == 503 && !own.isForeign):
	case isUncertain(err) && mayRepeat:
	default:
		return 0, false
	}
	if own.RetryAfter > 0 {
		pause = own.RetryAfter
	}
	return pause, true
}

func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	}
}
