package plainjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/schemas"
)

// Object is a JSON object with its members in order and none lost: a name that stands twice is seen.
type Object []Member

// Member is a member of an [Object].
type Member struct {
	Name  string
	Value any // nil, bool, string, json.Number, Object, []any
}

// Get is the value of the first member of that name; nil where there is none.
func (o Object) Get(name string) any {
	for i := range o {
		if o[i].Name == name {
			return o[i].Value
		}
	}
	return nil
}

// OwnID is the own id of a reference or fact topic's record, or the member that it lacks.
func OwnID(topic string, o Object) (id, missing string) {
	var parts []string
	for _, member := range schemas.OwnIDMembers(topic) {
		part := ""
		switch v := o.Get(member).(type) {
		case string:
			part = v
		case json.Number:
			part = v.String()
		}
		if part == "" {
			return "", member
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/"), ""
}

// TakeRef removes the first member of that name and gives it as a caller's reference: a string, or a number as it is written. nil: it is
// not there, or null. What is none is a defect.
func (o *Object) TakeRef(name string) (*string, *schemas.Reason) {
	i := slices.IndexFunc(*o, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return nil, nil
	}
	value := (*o)[i].Value
	*o = slices.Delete(*o, i, i+1)
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return &v, nil
	case json.Number:
		text := string(v)
		return &text, nil
	}
	return nil, &schemas.Reason{Code: schemas.CodeInvalid, Field: name, Message: name + " is " + describe(value) + "; expected a string, a number or null."}
}

// maxDepth bounds nested JSON; our schemas need 4.
const maxDepth = 64

// Parse reads one JSON object and nothing else. The error completes the sentence "line 7 …".
func Parse(text []byte) (Object, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("is not UTF-8")
	}
	v, err := parseText(text)
	if err != nil {
		return nil, err
	}
	o, ok := v.(Object)
	if !ok {
		return nil, fmt.Errorf("is %s; expected one JSON object", describe(v))
	}
	return o, nil
}

// parseText reads one JSON value of any kind.
func parseText(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("is not valid JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has something behind its JSON value")
	}
	return v, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		o := Object{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			value, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			o = append(o, Member{name.(string), value})
		}
		_, err = dec.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			value, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err = dec.Token()
		return list, err
	}
	return tok, nil
}

// maxShown is how many bytes of a value a message shows.
const maxShown = 60

// describe names a JSON value in a message.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case Object:
		return "an object"
	case []any:
		return "an array"
	case string:
		return strconv.Quote(shorten(v))
	case json.Number:
		return shorten(string(v))
	default:
		return fmt.Sprint(v)
	}
}

func shorten(s string) string {
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}
