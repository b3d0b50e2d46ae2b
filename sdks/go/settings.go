package wrenn

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// defaultURL is where `wrenn up` serves by default.
const defaultURL = "http://127.0.0.1:8000"

// systemDir is the directory of an installation of root.
const systemDir = "/var/lib/wrenn"

type settings struct {
	url *url.URL
	key string
}

func refuseSettings(format string, args ...any) error {
	return &Error{Code: "no_credentials", Message: fmt.Sprintf(format, args...)}
}

// loadSettings finds server and key: as given, else in the environment, else in the credentials file. The key of the
// file is for this machine only: it is not sent to another address than the one that stands beside it.
func loadSettings(address, key string) (*settings, error) {
	address = firstOf(address, os.Getenv("WRENN_API_URL"))
	key = firstOf(strings.TrimSpace(key), strings.TrimSpace(os.Getenv("WRENN_API_KEY")))
	if address != "" && key != "" {
		return checkSettings(address, key)
	}
	path := filepath.Join(wrennDir(), "credentials")
	fileURL, fileKey, err := readCredentials(path)
	if err != nil && key == "" {
		return nil, err
	}
	// With a key of its own, a file that cannot be read is no reason to fail.
	home := firstOf(fileURL, defaultURL)
	if key != "" {
		return checkSettings(home, key)
	}
	if fileKey == "" {
		return nil, refuseSettings("no API key: start a server here with `wrenn up`, which writes one to %s; "+
			"or set WRENN_API_KEY, or use a Client with one", path)
	}
	isHome := strings.TrimRight(address, "/") == strings.TrimRight(home, "/")
	if address != "" && !isHome && !isLoopback(address) {
		return nil, refuseSettings("no API key for %s: the one in %s is for this machine only and is not sent elsewhere; "+
			"set WRENN_API_KEY, or use a Client with one", address, path)
	}
	return checkSettings(firstOf(address, home), fileKey)
}

func checkSettings(address, key string) (*settings, error) {
	parsed, err := url.Parse(strings.TrimRight(address, "/"))
	if err == nil && parsed.User != nil {
		// Not shown: errors are logged.
		return nil, refuseSettings("the address of the server has a user or a password in it; the API key is the way to sign " +
			"in, with APIKey or WRENN_API_KEY")
	}
	if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
		return nil, refuseSettings("%q is not the address of a Wrenn server; it looks like %s", address, defaultURL)
	}
	isForbidden := func(r rune) bool { return r <= ' ' || r > '~' }
	if strings.ContainsFunc(key, isForbidden) {
		return nil, refuseSettings("the API key has characters that no key has; it looks like wrn_ and 40 lower-case hex digits")
	}
	return &settings{url: parsed, key: key}, nil
}

func firstOf(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}

func isLoopback(address string) bool {
	parsed, err := url.Parse(address)
	if err != nil || parsed.User != nil {
		return false
	}
	host := parsed.Hostname()
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// wrennDir returns WRENN_DIR; else ~/.wrenn where that is and the user is not root; else the system's directory.
func wrennDir() string {
	if dir := os.Getenv("WRENN_DIR"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err == nil && os.Geteuid() != 0 {
		own := filepath.Join(home, ".wrenn")
		if info, err := os.Stat(own); err == nil && info.IsDir() {
			return own
		}
	}
	return systemDir
}

func readCredentials(path string) (address, key string, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", "", nil
	}
	if err != nil {
		return "", "", &Error{
			Code:    "no_credentials",
			Message: path + " cannot be read; run this as the user who runs `wrenn up`, or set WRENN_API_KEY",
			Cause:   err,
		}
	}
	return parseCredentials(string(text), path)
}

// parseCredentials parses NAME=VALUE lines as a shell reads them: # comments, export, one pair of quotes.
func parseCredentials(text, path string) (address, key string, err error) {
	for index, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			return "", "", refuseSettings("%s, line %d: not of the form NAME=VALUE; correct it, or remove the file and "+
				"start `wrenn up` again", path, index+1)
		}
		switch strings.TrimSpace(name) {
		case "WRENN_API_URL":
			address = unquoted(strings.TrimSpace(value))
		case "WRENN_API_KEY":
			key = unquoted(strings.TrimSpace(value))
		}
	}
	return address, key, nil
}

func unquoted(value string) string {
	for _, quote := range []string{`"`, `'`} {
		if len(value) >= 2 && strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote) {
			return value[1 : len(value)-1]
		}
	}
	return value
}
