package wrenn

// Values of scenarios: what they stand for, and what they match.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

var reference = regexp.MustCompile(`\$\{([\w.]+)\}`)

// pattern returns bytes of which the one at i is i mod 251.
func pattern(size int) []byte {
	data := make([]byte, size)
	for index := range data {
		data[index] = byte(index % 251)
	}
	return data
}

// resolve replaces ${name} and what stands for bytes.
func resolve(value any, values map[string]any) any {
	switch value := value.(type) {
	case string:
		if whole := reference.FindStringSubmatch(value); whole != nil && whole[0] == value {
			return plain(look(whole[1], values))
		}
		return reference.ReplaceAllStringFunc(value, func(text string) string {
			return fmt.Sprint(plain(look(text[2:len(text)-1], values)))
		})
	case []any:
		items := make([]any, len(value))
		for index, item := range value {
			items[index] = resolve(item, values)
		}
		return items
	case map[string]any:
		if text, ok := value["$bytes"].(string); ok {
			data, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				panic(err)
			}
			return data
		}
		if size, ok := value["$pattern"].(float64); ok {
			return pattern(int(size))
		}
		fields := map[string]any{}
		for name, field := range value {
			fields[name] = resolve(field, values)
		}
		return fields
	}
	return value
}

// look returns the value of name.field.
func look(path string, values map[string]any) any {
	names := strings.Split(path, ".")
	value, ok := values[names[0]]
	if !ok {
		panic("nothing is bound to " + names[0])
	}
	for _, name := range names[1:] {
		if index, err := strconv.Atoi(name); err == nil {
			value = reflect.ValueOf(value).Index(index).Interface()
			continue
		}
		switch handle := value.(type) {
		case *Sandbox:
			value = handle.ID()
		case *CommandHandle:
			value = handle.ID()
		default:
			value = plain(value).(map[string]any)[name]
		}
	}
	return value
}

// plain returns a result as JSON has it, with bytes as they are.
func plain(value any) any {
	switch value := value.(type) {
	case nil, []byte, string, bool, float64, map[string]any:
		return value
	case []*Sandbox:
		return nil
	case *Result:
		return map[string]any{
			"exit_code": float64(value.ExitCode), "stdout": strings.ToValidUTF8(string(value.Stdout), "\ufffd"),
			"stderr": strings.ToValidUTF8(string(value.Stderr), "\ufffd"), "stdout_bytes": value.Stdout,
			"stderr_bytes": value.Stderr,
		}
	case *OutputPart:
		return map[string]any{
			"data": value.Data, "next_offset": float64(value.NextOffset), "dropped": float64(value.Dropped),
			"state": string(value.State),
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	var result any
	if err := json.Unmarshal(text, &result); err != nil {
		panic(err)
	}
	return result
}

// show returns a value for a message.
func show(value any) string {
	text := fmt.Sprintf("%v", value)
	return text[:min(len(text), 1000)]
}

var patterns map[string]func(wanted, got any) bool

func init() {
	patterns = map[string]func(wanted, got any) bool{
		"$contains": func(wanted, got any) bool {
			if items, ok := got.([]any); ok {
				for _, item := range items {
					if matches(wanted, item) {
						return true
					}
				}
				return false
			}
			text, ok := got.(string)
			part, isText := wanted.(string)
			return ok && isText && strings.Contains(text, part)
		},
		"$matches": func(wanted, got any) bool {
			text, ok := got.(string)
			return ok && regexp.MustCompile(wanted.(string)).MatchString(text)
		},
		"$size": func(wanted, got any) bool {
			switch got.(type) {
			case string, []byte, []any:
				return float64(reflect.ValueOf(got).Len()) == wanted
			}
			return false
		},
		"$least": func(wanted, got any) bool {
			number, ok := got.(float64)
			return ok && number >= wanted.(float64)
		},
		"$absent": func(_, got any) bool { return got == nil },
		"$any":    func(_, got any) bool { return got != nil },
	}
}

// matches returns true if a value matches.
func matches(wanted, got any) bool {
	switch wanted := wanted.(type) {
	case []byte:
		data, ok := got.([]byte)
		return ok && bytes.Equal(wanted, data)
	case []any:
		items, ok := got.([]any)
		if !ok || len(items) != len(wanted) {
			return false
		}
		for index := range wanted {
			if !matches(wanted[index], items[index]) {
				return false
			}
		}
		return true
	case map[string]any:
		for name, field := range wanted {
			if strings.HasPrefix(name, "$") {
				check := patterns[name]
				if check == nil {
					panic("the runner does not know " + name)
				}
				if !check(field, got) {
					return false
				}
				continue
			}
			object, ok := got.(map[string]any)
			if !ok || !matches(field, object[name]) {
				return false
			}
		}
		return true
	}
	return wanted == got
}
