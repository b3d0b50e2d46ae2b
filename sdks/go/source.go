package wrenn

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// setForm makes the form of an upload: fields, and the file behind them.
func setForm(request *call, fields [][2]string, data *source) {
	boundary := "wrenn-" + randomID()
	var head strings.Builder
	for _, field := range fields {
		fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", boundary, field[0], field[1])
	}
	fmt.Fprintf(&head, "--%s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n", boundary)
	head.WriteString("Content-Type: application/octet-stream\r\n\r\n")
	tail := fmt.Sprintf("\r\n--%s--\r\n", boundary)
	request.contentType = "multipart/form-data; boundary=" + boundary
	request.isOnce, request.isData = data.isOnce, true
	request.stream = func() (io.Reader, int64) {
		content, length := data.open()
		if length >= 0 {
			length += int64(head.Len() + len(tail))
		}
		return io.MultiReader(strings.NewReader(head.String()), content, strings.NewReader(tail)), length
	}
}

// source is what is sent, and the error of reading it, which is the one to tell.
type source struct {
	reader io.Reader
	// at is set for bytes and strings: each attempt has a reader of its own, since net/http may still read the one of the
	// attempt before.
	at     io.ReaderAt
	start  int64
	length int64
	isOnce bool

	mutex  sync.Mutex
	err    error
	closed bool
}

func newSource(reader io.Reader) *source {
	s := &source{reader: reader, length: -1, isOnce: true}
	known, hasLength := reader.(interface{ Len() int })
	seeker, isSeeker := reader.(io.Seeker)
	at, isReaderAt := reader.(io.ReaderAt)
	if hasLength && isSeeker && isReaderAt {
		if start, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			s.at, s.start, s.length, s.isOnce = at, start, int64(known.Len()), false
		}
	}
	return s
}

func (s *source) open() (io.Reader, int64) {
	if s.at != nil {
		return io.NewSectionReader(s.at, s.start, s.length), s.length
	}
	return readerFunc(s.read), s.length
}

func (s *source) read(buffer []byte) (int, error) {
	s.mutex.Lock()
	closed := s.closed
	s.mutex.Unlock()
	if closed {
		return 0, os.ErrClosed
	}
	n, err := s.reader.Read(buffer)
	if err != nil && err != io.EOF {
		s.mutex.Lock()
		s.err = err
		s.mutex.Unlock()
	}
	return n, err
}

// close ends the reading, also by net/http, which may go on after the answer, and returns the error to tell.
func (s *source) close(err error) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.closed = true
	if err != nil && s.err != nil {
		return s.err
	}
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(buffer []byte) (int, error) { return f(buffer) }
