// Package lenient reads JSON the way the partners' own servers do, one value after the other, straight from the text.
//
// The standard decoder does not serve at these doors: it keeps only the last of two members with one name, turns numbers into floats or
// needs a map for each object, and refuses what Json.NET takes. A [Reader] walks over the text instead:
//
//	r := lenient.NewReader(text, lenient.JSONNet)
//	for r.Enter(); r.More(); {        // an array
//		start := r.Start()            // where the element begins in the text
//		for r.Enter(); r.More(); {    // an object; repeated members come as often as they were sent
//			name := r.Name()
//			value := r.Value()        // a scalar's text as sent; an array or object is passed over
//		}
//	}
//	err := r.End()
//
// Errors stick: after the first one More is false and every kind is [Invalid], so that a walk ends by itself and End tells why. Texts are
// parts of the source unless they hold escapes; nothing else is allocated. Arrays and objects may stand [MaxDepth] deep.
//
// Three dialects are known. [JSON] is RFC 8259. [JSONNet] is what Newtonsoft's JsonTextReader takes beyond that: strings and names in
// single quotes, bare names, comments, a comma before a closing bracket, line ends in strings, undefined. [ServiceStack] takes whatever is
// made of a number's characters, for whoever knows the field to judge it: .5 is a number at Avon, 007 is none, and a text may be either. All
// skip a byte order mark and any Unicode white space between tokens: Json.NET does, and CRM.COM's published samples begin with a no-break space.
package lenient

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may be nested.
const MaxDepth = 64

// Dialect says which texts are accepted.
type Dialect uint8

// The dialects; the package comment tells them apart.
const (
	JSON Dialect = iota
	JSONNet
	ServiceStack
)

// Kind is the kind of a value.
type Kind uint8

// The kinds of values. Invalid is what a Reader says at the end of the text and after an error.
const (
	Invalid Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// Value is a value that was read.
type Value struct {
	Kind Kind
	Text string // String: its characters; anything else: as it stands in the source
}

// SyntaxError says where and why a text cannot be read.
type SyntaxError struct {
	Line, Column int // from 1; the column counts bytes
	Message      string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s at line %d, column %d", e.Message, e.Line, e.Column)
}

// NewSyntaxError says that src cannot be read because of what stands at the byte pos.
func NewSyntaxError(src string, pos int, message string) *SyntaxError {
	before := src[:min(pos, len(src))]
	return &SyntaxError{
		Line:    strings.Count(before, "\n") + 1,
		Column:  len(before) - strings.LastIndexByte(before, '\n'),
		Message: message,
	}
}

// Reader reads one text. The zero Reader reads an empty one.
type Reader struct {
	src     string
	pos     int
	dialect Dialect
	depth   int
	objects uint64 // bit n: the container at depth n+1 is an object
	first   bool   // nothing was read yet from the container that was entered last
	err     *SyntaxError
}

// NewReader reads src from its beginning.
func NewReader(src string, d Dialect) *Reader {
	r := &Reader{src: src, dialect: d}
	if strings.HasPrefix(src, "\ufeff") {
		r.pos = len("\ufeff")
	}
	return r
}

// Err is the first error, or nil.
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

// Start is where the next value or name begins in the source.
func (r *Reader) Start() int {
	r.blank()
	return r.pos
}

// Pos is where the value that was read last ends in the source.
func (r *Reader) Pos() int { return r.pos }

// Source is the part of the text between two positions.
func (r *Reader) Source(from, to int) string { return r.src[from:to] }

// Kind is the kind of the next value, which it does not read.
func (r *Reader) Kind() Kind {
	r.blank()
	if r.err != nil || r.pos >= len(r.src) {
		return Invalid
	}
	switch c := r.src[r.pos]; c {
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return String
	case '\'':
		if r.dialect == JSONNet {
			return String
		}
		return Invalid
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	case 'u':
		if r.dialect == JSONNet {
			return Null
		}
		return Invalid
	default:
		if c == '-' || '0' <= c && c <= '9' || r.dialect == ServiceStack && (c == '+' || c == '.') {
			return Number
		}
		return Invalid
	}
}

// Enter goes into the next value, which must be an array or object.
func (r *Reader) Enter() {
	switch k := r.Kind(); {
	case r.err != nil:
	case k != Array && k != Object:
		r.fail(r.pos, "expected an array or object")
	case r.depth == MaxDepth:
		r.fail(r.pos, "nested deeper than "+strconv.Itoa(MaxDepth)+" levels")
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

// More reports whether another element or member follows in the container that was entered last and not left; at its end, it leaves it.
func (r *Reader) More() bool {
	r.blank()
	if r.err != nil {
		return false
	}
	closing := byte(']')
	if r.inObject() {
		closing = '}'
	}
	if r.pos >= len(r.src) {
		r.fail(r.pos, "unexpected end, a "+string(closing)+" is missing")
		return false
	}
	first := r.first
	r.first = false
	if r.src[r.pos] == closing {
		r.leave()
		return false
	}
	if first {
		return true
	}
	if r.src[r.pos] != ',' {
		r.fail(r.pos, "expected , or "+string(closing))
		return false
	}
	r.pos++
	r.blank()
	if r.err == nil && r.dialect == JSONNet && r.pos < len(r.src) && r.src[r.pos] == closing {
		r.leave()
		return false
	}
	return r.err == nil
}

func (r *Reader) inObject() bool { return r.depth > 0 && r.objects&(1<<(r.depth-1)) != 0 }

func (r *Reader) leave() {
	r.pos++
	r.depth--
}

// Name reads the name of the next member and the colon behind it.
func (r *Reader) Name() string {
	r.blank()
	var name string
	switch {
	case r.err != nil:
		return ""
	case r.pos >= len(r.src):
		r.fail(r.pos, "unexpected end, a name is missing")
		return ""
	case r.src[r.pos] == '"', r.src[r.pos] == '\'' && r.dialect == JSONNet:
		name = r.string()
	case r.dialect == JSONNet:
		name = r.bareName()
	default:
		r.fail(r.pos, "expected a name in double quotes")
		return ""
	}
	r.blank()
	if r.err != nil {
		return ""
	}
	if r.pos >= len(r.src) || r.src[r.pos] != ':' {
		r.fail(r.pos, "expected : after a name")
		return ""
	}
	r.pos++
	return name
}

// Value reads the next value. An array or object is passed over, and its source is the text.
func (r *Reader) Value() Value {
	k := r.Kind()
	start := r.pos
	switch k {
	case String:
		return Value{k, r.string()}
	case Array, Object:
		r.skipContainer()
	case Number:
		r.number()
	case Bool:
		if !r.word("true") && !r.word("false") {
			r.fail(start, "unknown word")
		}
	case Null:
		if !r.word("null") && !(r.dialect == JSONNet && r.word("undefined")) {
			r.fail(start, "unknown word")
		}
	default:
		if r.pos >= len(r.src) {
			r.fail(r.pos, "unexpected end, a value is missing")
		}
		r.fail(r.pos, "expected a value")
	}
	if r.err != nil {
		return Value{}
	}
	return Value{k, r.src[start:r.pos]}
}

// skipContainer passes over an array or object without recursion.
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
		if k := r.Kind(); k == Array || k == Object {
			r.Enter()
			continue
		}
		r.Value()
	}
}

// word reads w if it stands here as a whole word.
func (r *Reader) word(w string) bool {
	end := r.pos + len(w)
	if !strings.HasPrefix(r.src[r.pos:], w) || end < len(r.src) && isNameByte(r.src[end]) {
		return false
	}
	r.pos = end
	return true
}

// number reads a number by the grammar of RFC 8259, which ServiceStack alone does not ask for.
func (r *Reader) number() {
	if r.dialect == ServiceStack {
		start := r.pos
		for r.pos < len(r.src) && strings.IndexByte("0123456789+-.eE", r.src[r.pos]) >= 0 {
			r.pos++
		}
		if r.pos < len(r.src) && isNameByte(r.src[r.pos]) {
			r.fail(start, "malformed number")
		}
		return
	}
	n := numberLength(r.src[r.pos:])
	if n == 0 || r.pos+n < len(r.src) && (isNameByte(r.src[r.pos+n]) || r.src[r.pos+n] == '.') {
		r.fail(r.pos, "malformed number")
		return
	}
	r.pos += n
}

// IsNumber reports whether s as a whole is a number by JSON's grammar.
func IsNumber(s string) bool { return s != "" && numberLength(s) == len(s) }

// numberLength is the length of the number that s begins with, 0 for none.
func numberLength(s string) int {
	i := 0
	digits := func() bool {
		from := i
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	zero := i < len(s) && s[i] == '0'
	from := i
	if !digits() || zero && i-from > 1 {
		return 0
	}
	if i < len(s) && s[i] == '.' {
		if i++; !digits() {
			return 0
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if !digits() {
			return 0
		}
	}
	return i
}

// string reads the string that begins here, in whichever quote.
func (r *Reader) string() string {
	quote := r.src[r.pos]
	begin := r.pos + 1
	for i := begin; i < len(r.src); i++ {
		switch c := r.src[i]; {
		case c == quote:
			r.pos = i + 1
			return r.src[begin:i]
		case c == '\\':
			return r.escaped(begin, i, quote)
		case c < ' ' && r.dialect != JSONNet:
			r.fail(i, "control character in a string")
			return ""
		}
	}
	r.fail(len(r.src), "unexpected end in a string")
	return ""
}

// escaped reads the rest of a string, from its first backslash on.
func (r *Reader) escaped(begin, i int, quote byte) string {
	var b strings.Builder
	b.WriteString(r.src[begin:i])
	for i < len(r.src) {
		c := r.src[i]
		switch {
		case c == quote:
			r.pos = i + 1
			return b.String()
		case c < ' ' && r.dialect != JSONNet:
			r.fail(i, "control character in a string")
			return ""
		case c != '\\':
			b.WriteByte(c)
			i++
			continue
		}
		if i+1 >= len(r.src) {
			break
		}
		switch e := r.src[i+1]; e {
		case '"', '\\', '/':
			b.WriteByte(e)
		case '\'':
			if r.dialect != JSONNet {
				r.fail(i, "unknown escape")
				return ""
			}
			b.WriteByte(e)
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'u':
			c, n := unicodeEscape(r.src[i:])
			if n == 0 {
				r.fail(i, "malformed \\u escape")
				return ""
			}
			b.WriteRune(c)
			i += n
			continue
		default:
			r.fail(i, "unknown escape")
			return ""
		}
		i += 2
	}
	r.fail(len(r.src), "unexpected end in a string")
	return ""
}

// unicodeEscape reads \uXXXX, or two of them that form a pair, and says how many bytes that took; 0 where it is malformed. Half a pair
// becomes U+FFFD, as encoding/json has it: text is UTF-8 from here on.
func unicodeEscape(s string) (c rune, n int) {
	hex := func(s string) (rune, bool) {
		if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
			return 0, false
		}
		v, err := strconv.ParseUint(s[2:6], 16, 16)
		return rune(v), err == nil
	}
	c, ok := hex(s)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(c) {
		return c, 6
	}
	if low, ok := hex(s[6:]); ok {
		if pair := utf16.DecodeRune(c, low); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

// bareName reads a name without quotes: letters, digits, _ and $.
func (r *Reader) bareName() string {
	begin := r.pos
	for r.pos < len(r.src) {
		c, n := utf8.DecodeRuneInString(r.src[r.pos:])
		if c != '_' && c != '$' && !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			break
		}
		r.pos += n
	}
	if r.pos == begin {
		r.fail(r.pos, "expected a name")
	}
	return r.src[begin:r.pos]
}

func isNameByte(c byte) bool {
	return c == '_' || c == '$' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// blank skips white space, and comments where the dialect has them.
func (r *Reader) blank() {
	for r.pos < len(r.src) {
		switch c := r.src[r.pos]; {
		case c == ' ' || c == '\n' || c == '\r' || c == '\t':
			r.pos++
		case c >= utf8.RuneSelf:
			c, n := utf8.DecodeRuneInString(r.src[r.pos:])
			if !unicode.IsSpace(c) {
				return
			}
			r.pos += n
		case c == '/' && r.dialect == JSONNet && r.err == nil:
			if !r.comment() {
				return
			}
		default:
			return
		}
	}
}

func (r *Reader) comment() bool {
	rest := r.src[r.pos:]
	switch {
	case strings.HasPrefix(rest, "//"):
		if n := strings.IndexAny(rest, "\r\n"); n >= 0 {
			r.pos += n
		} else {
			r.pos = len(r.src)
		}
		return true
	case strings.HasPrefix(rest, "/*"):
		n := strings.Index(rest[2:], "*/")
		if n < 0 {
			r.fail(r.pos, "unexpected end in a comment")
			return false
		}
		r.pos += n + 4
		return true
	default:
		r.fail(r.pos, "expected a value, a name or a comment")
		return false
	}
}

// fail keeps the first error.
func (r *Reader) fail(pos int, message string) {
	if r.err != nil {
		return
	}
	r.err = NewSyntaxError(r.src, pos, message)
}
