// Package ruletest runs tests of pure decisions that are written in a small language, so that a rule and its exceptions can be read side by
// side (and written by somebody who knows the contract better than Go).
//
//	# a comment
//	reset                                      forgets references, state and templates; a file begins like that
//	load accounts id=A1 number=ACR1            adds a reference record
//	template event purchase                    names a set of members; the word after it is the item's type
//	    kind = purchase
//	    account.number = ACR1
//	    products[0].product.code = "P 1"
//	event purchase                             an item: the template's members, then its own
//	    account = null
//	    participant.id = P1
//	expect processed                           judges the item; each line is a member of the result
//	    account_id = A1
//	event purchase
//	    account.number = ACR9
//	expect unprocessed                         all reasons, in order: code, field, then the value and the message where they matter
//	    not_found account "ACR9" : account with number "ACR9" was not found.
//	    candidates[0].call_id = C1             members of what is said beside the reasons, where the kind does so
//
// Paths are Avro names. A value is null, {} (a record without members), [] (an empty array), [a b] (of texts), a bare text, or a text in
// Go's double quotes, which may be repeated: "x" * 1001. State lives on from item to item.
package ruletest

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/schemas"
)

// World is what a kind's tests judge items with: reference records and state.
type World interface {
	// Row returns a pointer to a new record of the table, and Load adds it; nil: there is no such table.
	Row(table string) any
	Load(row any)
	// Item returns a pointer to a new item of the type; nil: there is no such type.
	Item(typ string) any
	// Judge returns a pointer to the item's result, or reasons, and with these a pointer to what the kind says beside them, or nil.
	Judge(item any) (result any, reasons []schemas.Reason)
}

// Run runs the files that match the pattern, each in a world of its own.
func Run(t *testing.T, pattern string, world func() World) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files match %s (%v)", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r := runner{world: world}
			r.reset()
			blocks := parse(string(text))
			for _, b := range blocks {
				if err := r.run(b); err != nil {
					t.Errorf("%s:%d: %s\n%v", file, b.line, strings.Join(b.words, " "), err)
				}
			}
			if r.judged == 0 {
				t.Errorf("%s expects nothing", file)
			}
		})
	}
}

// block is a line that begins at the margin, and the indented lines below it.
type block struct {
	line  int
	words []string
	body  []string
}

func parse(text string) []block {
	var blocks []block
	for n, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case trimmed != strings.TrimRight(line, " \t\r") && len(blocks) > 0:
			last := &blocks[len(blocks)-1]
			last.body = append(last.body, trimmed)
		default:
			blocks = append(blocks, block{line: n + 1, words: words(trimmed)})
		}
	}
	return blocks
}

// words splits at blanks that are not within double quotes.
func words(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
}

type runner struct {
	world     func() World
	now       World
	templates map[string][]string // by type and name
	item      any                 // not judged yet
	judged    int
}

func (r *runner) reset() {
	r.now, r.templates = r.world(), map[string][]string{}
}

func (r *runner) run(b block) error {
	if r.item != nil && b.words[0] != "expect" {
		r.item = nil
		return fmt.Errorf("the item before has no expect")
	}
	switch {
	case b.words[0] == "reset":
		r.reset()
		return nil
	case b.words[0] == "load" && len(b.words) > 1:
		return r.load(b.words[1], b.words[2:])
	case b.words[0] == "template" && len(b.words) == 3:
		r.templates[b.words[1]+" "+b.words[2]] = b.body
		return nil
	case b.words[0] == "expect" && len(b.words) == 2:
		return r.expect(b.words[1], b.body)
	}
	item := r.now.Item(b.words[0])
	if item == nil || len(b.words) > 2 {
		return fmt.Errorf("is no command")
	}
	members := b.body
	if len(b.words) == 2 {
		template, ok := r.templates[b.words[0]+" "+b.words[1]]
		if !ok {
			return fmt.Errorf("there is no such template")
		}
		members = append(append([]string{}, template...), b.body...)
	}
	r.item = item
	return assign(item, members)
}

func (r *runner) load(table string, members []string) error {
	row := r.now.Row(table)
	if row == nil {
		return fmt.Errorf("there is no table %s", table)
	}
	if err := assign(row, members); err != nil {
		return err
	}
	r.now.Load(row)
	return nil
}

func (r *runner) expect(outcome string, body []string) error {
	if r.item == nil {
		return fmt.Errorf("there is no item to judge")
	}
	result, reasons := r.now.Judge(r.item)
	r.item = nil
	r.judged++
	switch outcome {
	case "processed":
		if len(reasons) > 0 {
			return fmt.Errorf("unprocessed:\n%s", show(reasons))
		}
		return compare(result, body)
	case "unprocessed":
		isMember := func(line string) bool { w := words(line); return len(w) > 1 && w[1] == "=" }
		beside := slices.DeleteFunc(slices.Clone(body), func(line string) bool { return !isMember(line) })
		if err := compareReasons(reasons, slices.DeleteFunc(slices.Clone(body), isMember)); err != nil || len(beside) == 0 {
			return err
		}
		return compare(result, beside)
	}
	return fmt.Errorf("an item is processed or unprocessed")
}

func compare(result any, body []string) error {
	var problems []string
	for _, line := range body {
		path, want, ok := strings.Cut(line, "=")
		if !ok {
			return fmt.Errorf("%s: not path = value", line)
		}
		got, err := at(reflect.ValueOf(result), strings.TrimSpace(path), false)
		if err != nil {
			return err
		}
		text, err := unquote(strings.TrimSpace(want))
		if err != nil {
			return err
		}
		if have := render(got); have != text {
			problems = append(problems, fmt.Sprintf("  %s is %s, not %s", strings.TrimSpace(path), have, text))
		}
	}
	if problems != nil {
		return fmt.Errorf("%s", strings.Join(problems, "\n"))
	}
	return nil
}

func compareReasons(reasons []schemas.Reason, body []string) error {
	fits := len(reasons) == len(body)
	for i := 0; fits && i < len(body); i++ {
		head, message, hasMessage := strings.Cut(body[i], " : ")
		want := words(head)
		got := reasons[i]
		field := ""
		if len(want) > 1 && want[1] != "-" {
			field = want[1]
		}
		fits = want[0] == got.Code && field == got.Field && (!hasMessage || strings.TrimSpace(message) == got.Message)
		if len(want) > 2 {
			value, err := unquote(want[2])
			if err != nil {
				return err
			}
			fits = fits && got.Value != nil && *got.Value == value
		}
	}
	if !fits {
		return fmt.Errorf("expected:\n  %s\ngot:\n%s", strings.Join(body, "\n  "), show(reasons))
	}
	return nil
}

func show(reasons []schemas.Reason) string {
	var b strings.Builder
	for _, r := range reasons {
		value := ""
		if r.Value != nil {
			value = strconv.Quote(*r.Value)
		}
		fmt.Fprintf(&b, "  %s %s %s : %s\n", r.Code, r.Field, value, r.Message)
	}
	if b.Len() == 0 {
		return "  no reasons"
	}
	return strings.TrimRight(b.String(), "\n")
}

// assign sets members, each "path = value".
func assign(target any, members []string) error {
	for _, m := range members {
		path, value, ok := strings.Cut(m, "=")
		if !ok {
			return fmt.Errorf("%s: not path = value", m)
		}
		v, err := at(reflect.ValueOf(target), strings.TrimSpace(path), true)
		if err == nil {
			err = set(v, strings.TrimSpace(value))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	return nil
}

// at finds the member at a path of Avro names; grow makes what lies on the way.
func at(v reflect.Value, path string, grow bool) (reflect.Value, error) {
	for _, step := range strings.Split(path, ".") {
		name, index, indexed := strings.Cut(strings.TrimSuffix(step, "]"), "[")
		v = follow(v, grow)
		if v.Kind() != reflect.Struct {
			return v, fmt.Errorf("nothing has the member %s", name)
		}
		if v = member(v, name); !v.IsValid() {
			return v, fmt.Errorf("there is no member %s", name)
		}
		if !indexed {
			continue
		}
		i, err := strconv.Atoi(index)
		if err != nil {
			return v, err
		}
		v = follow(v, grow)
		for grow && v.Len() <= i {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		}
		if i >= v.Len() {
			return v, fmt.Errorf("%s has %d elements", name, v.Len())
		}
		v = v.Index(i)
	}
	return v, nil
}

func follow(v reflect.Value, grow bool) reflect.Value {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			if !grow {
				return v
			}
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	return v
}

func member(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Tag.Get("avro") == name {
			return v.Field(i)
		}
		if f.Anonymous {
			if m := member(v.Field(i), name); m.IsValid() {
				return m
			}
		}
	}
	return reflect.Value{}
}

func set(v reflect.Value, text string) error {
	if text == "null" {
		v.SetZero()
		return nil
	}
	v = follow(v, true)
	if text == "{}" {
		v.SetZero()
		return nil
	}
	if v.Kind() == reflect.Slice && strings.HasPrefix(text, "[") {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		for _, w := range words(strings.Trim(text, "[]")) {
			e := reflect.New(v.Type().Elem()).Elem()
			if err := set(e, w); err != nil {
				return err
			}
			v.Set(reflect.Append(v, e))
		}
		return nil
	}
	text, err := unquote(text)
	if err != nil {
		return err
	}
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = text
	case *bool:
		*p, err = strconv.ParseBool(text)
	case *int32:
		var n int64
		n, err = strconv.ParseInt(text, 10, 32)
		*p = int32(n)
	case *int64:
		*p, err = strconv.ParseInt(text, 10, 64)
	case *float64:
		*p, err = strconv.ParseFloat(text, 64)
	case *schemas.Decimal:
		err = p.UnmarshalText([]byte(text))
	case *time.Time:
		if *p, err = time.Parse(time.RFC3339, text); err != nil {
			*p, err = time.Parse(time.DateOnly, text)
		}
	default:
		err = fmt.Errorf("a %s cannot be written like that", v.Type())
	}
	return err
}

func unquote(text string) (string, error) {
	if !strings.HasPrefix(text, `"`) {
		return text, nil
	}
	quoted, times, repeated := text, "1", false
	if i := strings.LastIndex(text, `" * `); i > 0 {
		quoted, times, repeated = text[:i+1], text[i+4:], true
	}
	s, err := strconv.Unquote(quoted)
	if err != nil || !repeated {
		return s, err
	}
	n, err := strconv.Atoi(times)
	return strings.Repeat(s, n), err
}

// render writes a value as the language does.
func render(v reflect.Value) string {
	if v.Kind() == reflect.Pointer && v.IsNil() {
		return "null"
	}
	v = follow(v, false)
	switch x := v.Interface().(type) {
	case time.Time:
		if x.Equal(x.Truncate(24 * time.Hour)) {
			return x.Format(time.DateOnly)
		}
		return x.Format(time.RFC3339Nano)
	default:
		return fmt.Sprint(x)
	}
}

// CheckReasons checks what must hold of all reasons: at least one, bounded, with a code and a sentence, in text that every reader can read.
func CheckReasons(t testing.TB, reasons []schemas.Reason) {
	t.Helper()
	if len(reasons) == 0 {
		t.Error("no reasons")
	}
	if len(reasons) > 100 {
		t.Errorf("%d reasons", len(reasons))
	}
	for _, r := range reasons {
		if r.Code == "" || !strings.HasSuffix(r.Message, ".") || len(r.Message) > 2000 || !readable(r.Message) || !readable(r.Field) {
			t.Errorf("bad reason: %+v", r)
		}
		if r.Value != nil && !readable(*r.Value) {
			t.Errorf("bad value: %+v", r)
		}
	}
}

func readable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }
