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

// PortConn is a TCP connection to a port of a sandbox. CloseWrite ends its direction, as of a net.TCPConn.
type PortConn struct {
	socket *socket
	rest   []byte
	// hasRead is true once the other side has ended its direction.
	hasRead  bool
	mutex    sync.Mutex
	hasEnded bool
	read     deadline
	write    deadline
	address  portAddr
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
	return &PortConn{socket: opened, address: portAddr{s.ID(), port}}, nil
}

type portAddr struct {
	sandbox string
	port    int
}

func (a portAddr) Network() string { return "wrenn" }
func (a portAddr) String() string  { return net.JoinHostPort(a.sandbox, strconv.Itoa(a.port)) }

// deadline ends a connection: a WebSocket of which a frame was begun cannot be used any more.
type deadline struct {
	mutex   sync.Mutex
	timer   *time.Timer
	expired bool
}

func (d *deadline) set(at time.Time, expire func()) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer = nil
	if at.IsZero() {
		return
	}
	d.timer = time.AfterFunc(time.Until(at), func() {
		d.mutex.Lock()
		d.expired = true
		d.mutex.Unlock()
		expire()
	})
}

func (d *deadline) errorOr(err error) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if err != nil && d.expired {
		return os.ErrDeadlineExceeded
	}
	return err
}

func (p *PortConn) Read(buffer []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.hasRead {
			return 0, io.EOF
		}
		kind, data, err := p.socket.receive()
		switch {
		case err == io.EOF && !p.socket.closed.Load():
			err = broken(errors.New("the connection to the port ended before its data: does a program listen there?"))
			return 0, p.read.errorOr(err)
		case err != nil && p.socket.closed.Load():
			return 0, p.read.errorOr(net.ErrClosed)
		case err != nil:
			return 0, p.read.errorOr(err)
		case kind != websocket.MessageBinary:
		case len(data) == 0:
			p.hasRead = true
			p.endDirection()
		default:
			p.rest = data
		}
	}
	n := copy(buffer, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *PortConn) Write(data []byte) (int, error) {
	sent := 0
	for sent < len(data) {
		part := data[sent:min(len(data), sent+maxPortFrame)]
		if err := p.socket.send(websocket.MessageBinary, part); err != nil {
			return sent, p.write.errorOr(err)
		}
		sent += len(part)
	}
	return sent, nil
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
	p.SetDeadline(time.Time{})
	p.socket.close()
	return nil
}

// LocalAddr returns the address of this side, which has none of its own.
func (p *PortConn) LocalAddr() net.Addr { return portAddr{} }

// RemoteAddr returns sandbox and port.
func (p *PortConn) RemoteAddr() net.Addr { return p.address }

// SetDeadline sets the time at which the connection ends, unless it is moved before.
func (p *PortConn) SetDeadline(at time.Time) error {
	return errors.Join(p.SetReadDeadline(at), p.SetWriteDeadline(at))
}

// SetReadDeadline does the same for a read that waits. What is left of the connection ends with it.
func (p *PortConn) SetReadDeadline(at time.Time) error {
	p.read.set(at, p.socket.close)
	return nil
}

// SetWriteDeadline does the same for a write that waits.
func (p *PortConn) SetWriteDeadline(at time.Time) error {
	p.write.set(at, p.socket.close)
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
