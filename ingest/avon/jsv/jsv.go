// Package jsv reads and writes JSV, the text format of ServiceStack: JSON's shape with CSV's quotes.
//
//	{name:bare text,list:[1,2],said:"he said ""ok""",at:2015-03-02T10:15:00Z,none:}
//
// A text stands bare unless it holds one of " : , { } [ ] CR LF; in double quotes the only escape is a doubled quote. A bare text ends at
// the next comma or closing bracket, a bare name at the next colon. Nothing in the format tells numbers and texts apart: what a text means
// is for the reader of the member to say. Nothing at all is null, and "" is the empty text.
//
// A [Reader] walks over the text as [lenient.Reader] does over JSON:
//
//	r := jsv.NewReader(text)
//	for r.Enter(); r.More(); {        // a list
//		for r.Enter(); r.More(); {    // an object
//			name := r.Name()
//			value := r.Value()        // a text; a list or object is passed over
//		}
//	}
//	err := r.End()
//
// ServiceStack's own grammar has no white space: its servers read " x" with the blank, and do not see a list behind a line break, although
// the pages that they print show JSV with line breaks and tabs. This reader takes both: white space around brackets, commas, names and
// quoted texts is passed over, and bare texts are trimmed. So a bare text cannot begin or end with white space here, and [AppendText] puts
// such a text in quotes, which ServiceStack's servers read as well. Names in quotes are taken without them, which makes most JSON readable.
//
// What is cut off or does not fit is an error here; ServiceStack's servers keep what they understood.
package jsv

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest/lenient"
)

// Kind is the kind of a value.
type Kind uint8

// The kinds of values. Invalid is what a Reader says after an error.
const (
	Invalid Kind = iota
	Empty        // nothing between two separators: null
	Bare
	Quoted
	List
	Object
)

// Value is a value that was read.
type Value struct {
	Kind Kind
	Text string // Bare: trimmed; Quoted: its characters, verbatim; List and Object: as they stand in the source
}

// Reader reads one text. The zero Reader reads an empty one. Errors stick: after the first one More is false and every kind is [Invalid],
// so that a walk ends by itself and End tells why. Texts are parts of the source unless they hold doubled quotes; nothing else is
// allocated. Lists and objects may stand [lenient.MaxDepth] deep.
type Reader struct {
	src     string
	pos     int
	depth   int
	objects uint64 // bit n: the container at depth n+1 is an object
	first   bool   // nothing was read yet from the container that was entered last
	err     *lenient.SyntaxError
}

// NewReader reads src from its beginning; a byte order mark there is passed over.
func NewReader(src string) *Reader {
	r := &Reader{src: src}
	if strings.HasPrefix(src, byteOrderMark) {
		r.pos = len(byteOrderMark)
	}
	return r
}

const byteOrderMark = "\ufeff"

// Err is the first error, a [*lenient.SyntaxError], or nil.
func (r *Reader) Err() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

// End is to be called after the last value: it returns the first error, or that something follows the value.
func (r *Reader) End() error {
	if r.blank(); r.err == nil && r.pos < len(r.src) {
		r.fail(r.pos, "unexpected text after the value")
	}
	return r.Err()
}

// Kind is the kind of the next value, which it does not read.
func (r *Reader) Kind() Kind {
	if r.err != nil {
		return Invalid
	}
	r.blank()
	if r.pos >= len(r.src) {
		if r.depth > 0 {
			return Invalid // More says what is missing
		}
		return Empty
	}
	switch c := r.src[r.pos]; {
	case c == '{':
		return Object
	case c == '[':
		return List
	case c == '"':
		return Quoted
	case r.ends(c):
		return Empty
	}
	return Bare
}

// ends reports whether c ends a bare value where the reader stands.
func (r *Reader) ends(c byte) bool {
	switch {
	case r.depth == 0:
		return false
	case r.inObject():
		return c == ',' || c == '}'
	default:
		return c == ',' || c == ']' || c == '}'
	}
}

// Enter goes into the next value, which must be a list or object.
func (r *Reader) Enter() {
	switch k := r.Kind(); {
	case r.err != nil:
	case k != List && k != Object:
		r.fail(r.pos, "expected a list or object")
	case r.depth == lenient.MaxDepth:
		r.fail(r.pos, "nested deeper than "+strconv.Itoa(lenient.MaxDepth)+" levels")
	default:
		bit := uint64(1) << r.depth
		if r.objects &^= bit; k == Object {
			r.objects |= bit
		}
		r.depth++
		r.pos++
		r.first = true
	}
}

// More reports whether another element or member follows in the container that was entered last and not left; at its end, it leaves it. A
// comma before the closing bracket is passed over, as ServiceStack does: [a,] has one element, and so has [,], an empty one.
func (r *Reader) More() bool {
	if r.err != nil {
		return false
	}
	r.blank()
	closing := byte(']')
	if r.inObject() {
		closing = '}'
	}
	first := r.first
	r.first = false
	if !first && r.pos < len(r.src) && r.src[r.pos] == ',' {
		r.pos++
		r.blank()
		first = true
	}
	switch {
	case r.pos >= len(r.src):
		r.fail(r.pos, "unexpected end, a "+string(closing)+" is missing")
		return false
	case r.src[r.pos] == closing:
		r.pos++
		r.depth--
		return false
	case !first:
		r.fail(r.pos, "expected , or "+string(closing))
		return false
	}
	return true
}

func (r *Reader) inObject() bool { return r.depth > 0 && r.objects&(1<<(r.depth-1)) != 0 }

// Name reads the name of the next member and the colon behind it.
func (r *Reader) Name() string {
	if r.err != nil {
		return ""
	}
	r.blank()
	var name string
	if r.pos < len(r.src) && r.src[r.pos] == '"' {
		name = r.quoted()
		r.blank()
	} else {
		n := strings.IndexAny(r.src[r.pos:], `:,{}[]"`)
		if n < 0 {
			n = len(r.src) - r.pos
		}
		name = strings.TrimRightFunc(r.src[r.pos:r.pos+n], unicode.IsSpace)
		r.pos += n
	}
	switch {
	case r.err != nil:
		return ""
	case r.pos >= len(r.src):
		r.fail(r.pos, "unexpected end in a name, a : is missing")
		return ""
	case r.src[r.pos] != ':':
		r.fail(r.pos, "expected : after a name")
		return ""
	}
	r.pos++
	return name
}

// Value reads the next value. A list or object is passed over, and its source is the text.
func (r *Reader) Value() Value {
	k := r.Kind()
	start := r.pos
	v := Value{Kind: k}
	switch k {
	case Quoted:
		v.Text = r.quoted()
	case Bare:
		v.Text = r.bare()
	case List, Object:
		r.skipContainer()
		v.Text = r.src[start:r.pos]
	case Invalid:
		if r.err == nil {
			r.fail(r.pos, "unexpected end, a value is missing")
		}
	}
	if r.err != nil {
		return Value{}
	}
	return v
}

// skipContainer passes over a list or object without recursion.
func (r *Reader) skipContainer() {
	outer := r.depth
	r.Enter()
	for r.err == nil && r.depth > outer {
		if !r.More() {
			continue
		}
		if r.inObject() {
			r.Name()
		}
		if k := r.Kind(); k == List || k == Object {
			r.Enter()
			continue
		}
		r.Value()
	}
}

// bare reads the text up to the next separator, without the white space around it.
func (r *Reader) bare() string {
	begin := r.pos
	for r.pos < len(r.src) && !r.ends(r.src[r.pos]) {
		r.pos++
	}
	return strings.TrimRightFunc(r.src[begin:r.pos], unicode.IsSpace)
}

// quoted reads the text in quotes that begins here.
func (r *Reader) quoted() string {
	begin := r.pos + 1
	doubled := false
	for i := begin; i < len(r.src); i++ {
		switch {
		case r.src[i] != '"':
		case i+1 < len(r.src) && r.src[i+1] == '"':
			doubled = true
			i++
		default:
			r.pos = i + 1
			if !doubled {
				return r.src[begin:i]
			}
			return strings.ReplaceAll(r.src[begin:i], `""`, `"`)
		}
	}
	r.fail(len(r.src), `unexpected end, a " is missing`)
	return ""
}

// blank passes over white space.
func (r *Reader) blank() {
	for r.pos < len(r.src) {
		switch c := r.src[r.pos]; {
		case c == ' ' || '\t' <= c && c <= '\r':
			r.pos++
		case c >= utf8.RuneSelf:
			c, n := utf8.DecodeRuneInString(r.src[r.pos:])
			if !unicode.IsSpace(c) {
				return
			}
			r.pos += n
		default:
			return
		}
	}
}

// fail keeps the first error.
func (r *Reader) fail(pos int, message string) {
	if r.err == nil {
		r.err = lenient.NewSyntaxError(r.src, pos, message)
	}
}

// AppendText appends a text or name, in quotes where it needs them.
func AppendText(b []byte, s string) []byte {
	if !needsQuotes(s) {
		return append(b, s...)
	}
	b = append(b, '"')
	for {
		n := strings.IndexByte(s, '"')
		if n < 0 {
			return append(append(b, s...), '"')
		}
		b = append(append(b, s[:n+1]...), '"')
		s = s[n+1:]
	}
}

// needsQuotes reports whether s would be read as something else without quotes.
func needsQuotes(s string) bool {
	return s == "" || strings.ContainsAny(s, "\":,{}[]\r\n") || strings.HasPrefix(s, byteOrderMark) || strings.TrimSpace(s) != s
}
