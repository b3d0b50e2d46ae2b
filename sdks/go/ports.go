package wrenn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// maxPortFrame is the number of bytes of one frame.
const maxPortFrame = 64 << 10

// maxPortFrames is the number of frames that are read ahead of Read.
const maxPortFrames = 2

// PortConn is a TCP connection to a port of a sandbox. CloseWrite ends its direction, as of a net.TCPConn.
//
// A goroutine receives, so that a read whose deadline has passed leaves the connection as it is: another read, with a
// later deadline, goes on. A write that is interrupted has sent a part of a frame: the connection ends with it.
type PortConn struct {
	socket *socket
	// received are the frames in order. It is closed behind the last one, when receiveErr is set.
	received   chan []byte
	receiveErr error
	rest       []byte
	mutex      sync.Mutex
	hasEnded   bool
	read       deadline
	write      deadline
	closeOnce  sync.Once
	closed     chan struct{}
	address    portAddr
}

var _ net.Conn = (*PortConn)(nil)

// DialPort opens a TCP connection to a port, with any protocol. The connection outlives ctx.
func (s *Sandbox) DialPort(ctx context.Context, port int) (*PortConn, error) {
	request := &call{
		operation: "tunnel", path: s.path(), query: url.Values{"port": {strconv.Itoa(port)}},
	}
	dialing, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(contextError(ctx)) })
	opened, err := s.client.dial(dialing, request)
	if !stop() && err == nil {
		opened.close()
		err = contextError(ctx)
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	// Its context ends with the connection, not with the dialing.
	conn := &PortConn{
		socket: opened, address: portAddr{s.ID(), port}, received: make(chan []byte, maxPortFrames), closed: make(chan struct{}),
	}
	conn.read.passed = make(chan struct{})
	conn.write.passed = make(chan struct{})
	go conn.receive()
	return conn, nil
}

type portAddr struct {
	sandbox string
	port    int
}

func (a portAddr) Network() string { return "wrenn" }
func (a portAddr) String() string  { return net.JoinHostPort(a.sandbox, strconv.Itoa(a.port)) }

// deadline is a time after which reads or writes fail, as that of net.Pipe.
type deadline struct {
	mutex sync.Mutex
	timer *time.Timer
	// passed is closed when the time has passed, and made anew when a later one is set.
	passed chan struct{}
}

func (d *deadline) set(at time.Time) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		// It has fired, or fires now: this is the channel that it closes.
		<-d.passed
	}
	d.timer = nil
	select {
	case <-d.passed:
		d.passed = make(chan struct{})
	default:
	}
	if at.IsZero() {
		return
	}
	passed := d.passed
	if left := time.Until(at); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(passed) })
	} else {
		close(passed)
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.passed
}

func (d *deadline) hasPassed() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}

// receive reads frames until the other side ends its direction, or the connection ends.
func (p *PortConn) receive() {
	defer close(p.received)
	for {
		kind, data, err := p.socket.receive()
		switch {
		case err == io.EOF:
			p.receiveErr = broken(errors.New("the connection to the port ended before its data: does a program listen there?"))
			return
		case err != nil:
			p.receiveErr = err
			return
		case kind != websocket.MessageBinary:
			continue
		case len(data) == 0:
			p.receiveErr = io.EOF
			p.endDirection()
			return
		}
		select {
		case p.received <- data:
		case <-p.closed:
			return
		}
	}
}

func (p *PortConn) Read(buffer []byte) (int, error) {
	switch {
	case p.isClosed():
		return 0, net.ErrClosed
	case p.read.hasPassed():
		return 0, os.ErrDeadlineExceeded
	case len(p.rest) == 0:
		select {
		case data, ok := <-p.received:
			if !ok && p.isClosed() {
				return 0, net.ErrClosed
			}
			if !ok {
				return 0, p.receiveErr
			}
			p.rest = data
		case <-p.closed:
			return 0, net.ErrClosed
		case <-p.read.wait():
			return 0, os.ErrDeadlineExceeded
		}
	}
	n := copy(buffer, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *PortConn) Write(data []byte) (int, error) {
	sent := 0
	for sent < len(data) {
		switch {
		case p.isClosed():
			return sent, net.ErrClosed
		case p.write.hasPassed():
			return sent, os.ErrDeadlineExceeded
		}
		part := data[sent:min(len(data), sent+maxPortFrame)]
		if err := p.send(part); err != nil {
			return sent, err
		}
		sent += len(part)
	}
	return sent, nil
}

// send sends a frame. A deadline that passes ends the connection.
func (p *PortConn) send(part []byte) error {
	done := make(chan struct{})
	defer close(done)
	passed := p.write.wait()
	go func() {
		select {
		case <-passed:
			p.socket.close()
		case <-done:
		}
	}()
	err := p.socket.send(websocket.MessageBinary, part)
	switch {
	case err == nil:
		return nil
	case p.isClosed():
		return net.ErrClosed
	case p.write.hasPassed():
		return os.ErrDeadlineExceeded
	}
	return err
}

func (p *PortConn) isClosed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// CloseWrite ends the direction to the sandbox.
func (p *PortConn) CloseWrite() error {
	err := p.socket.send(websocket.MessageBinary, nil)
	p.endDirection()
	return err
}

// endDirection closes the connection once both directions have ended.
func (p *PortConn) endDirection() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.hasEnded {
		p.socket.closeInOrder()
	}
	p.hasEnded = true
}

// Close closes the connection, both directions.
func (p *PortConn) Close() error {
	p.closeOnce.Do(func() { close(p.closed) })
	p.socket.close()
	return nil
}

// LocalAddr returns the address of this side, which has none of its own.
func (p *PortConn) LocalAddr() net.Addr { return portAddr{} }

// RemoteAddr returns sandbox and port.
func (p *PortConn) RemoteAddr() net.Addr { return p.address }

// SetDeadline sets the time after which reads and writes fail, also those that wait; zero: never.
func (p *PortConn) SetDeadline(at time.Time) error {
	return errors.Join(p.SetReadDeadline(at), p.SetWriteDeadline(at))
}

// SetReadDeadline sets the time after which reads fail. A later time has them go on.
func (p *PortConn) SetReadDeadline(at time.Time) error {
	p.read.set(at)
	return nil
}

// SetWriteDeadline sets the time after which writes fail. The connection ends with a write that waits then.
func (p *PortConn) SetWriteDeadline(at time.Time) error {
	p.write.set(at)
	return nil
}

// PortLinkOptions say how long a link opens a port.
type PortLinkOptions struct {
	// ExpiresIn is the time until it opens nothing any more. Default an hour.
	ExpiresIn time.Duration
}

// URL makes a signed URL of a port, for clients without a key.
func (s *Sandbox) URL(ctx context.Context, port int, options ...PortLinkOptions) (string, error) {
	link, err := s.CreatePortLink(ctx, port, options...)
	if err != nil {
		return "", err
	}
	return link.URL, nil
}

// CreatePortLink makes a signed URL of a port, with its token and its end.
func (s *Sandbox) CreatePortLink(ctx context.Context, port int, options ...PortLinkOptions) (*PortLink, error) {
	body := PortLinkRequest{Port: int64(port)}
	if expires := firstOption(options).ExpiresIn; expires > 0 {
		seconds := ceilSeconds(expires)
		body.ExpiresInSec = &seconds
	}
	return fetch[PortLink](ctx, s.client, &call{operation: "create_port_link", path: s.path(), body: body})
}
