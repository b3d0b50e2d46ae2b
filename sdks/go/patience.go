package wrenn

import (
	"context"
	"errors"
	"time"
)

const (
	// reconnectFor is the time without an answer after which a broken connection is given up.
	reconnectFor = time.Minute
	// reconnectPause is the pause before a connection is made again; it doubles up to maxReconnectPause.
	reconnectPause    = 200 * time.Millisecond
	maxReconnectPause = 2 * time.Second
)

// patience counts the time without an answer over broken connections. It begins at the first failure, not while a
// connection that is well is quiet.
type patience struct {
	limit time.Duration
	since time.Time
	pause time.Duration
}

// connected ends the time without an answer. Pauses go on to grow: a server that answers and breaks off is not asked
// again and again.
func (p *patience) connected() { p.since = time.Time{} }

// progressed does the same, and makes pauses short again.
func (p *patience) progressed() {
	p.since = time.Time{}
	p.pause = 0
}

// wait pauses before the next attempt. It returns failure once there was no answer for too long.
func (p *patience) wait(ctx context.Context, failure error) error {
	if p.since.IsZero() {
		p.since = time.Now()
	} else if time.Since(p.since) > p.limit {
		return failure
	}
	p.pause = min(max(2*p.pause, reconnectPause), maxReconnectPause)
	return sleep(ctx, p.pause)
}

// isTransient returns true for an error after which a stream may be opened again.
func isTransient(err error) bool {
	var own *Error
	isOwn := errors.As(err, &own)
	return isOwn && (own.Code == "unreachable" || own.Code == "connection_broken" || own.Code == "host_unavailable" ||
		(own.isForeign && own.Status >= 500))
}

// isTransientAnswer returns true for an error after which a request that changes nothing may be made again: those of
// isTransient, and a host or a guest that did not answer.
func isTransientAnswer(err error) bool {
	var own *Error
	isSlow := errors.As(err, &own) && (own.Code == "agent_error" || own.Code == "timeout")
	// The time of the caller is over for all attempts.
	return isTransient(err) || (isSlow && !errors.Is(err, context.DeadlineExceeded))
}
