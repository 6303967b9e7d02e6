package ingest

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// shorter writes a JSON text, which is not checked, without the blanks between its parts and with characters in place of their escapes: it says the
// same in the fewest bytes. It keeps the text of an item with defects, of which an outcome shows what was sent, where as sent it would be too large.
func shorter(text []byte) []byte {
	out := make([]byte, 0, len(text)/2)
	inside := false // a string
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case !inside && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
		case inside && c == '\\' && i+1 < len(text):
			if r, size := escaped(text[i:]); size > 0 {
				out = utf8.AppendRune(out, r)
				i += size - 1
				continue
			}
			out = append(out, c, text[i+1])
			i++
		default:
			if c == '"' {
				inside = !inside
			}
			out = append(out, c)
		}
	}
	return out
}

// escaped reads an escape of the form \uXXXX, or a pair of them, and how many bytes it has. The size is 0 where there is none, or where the
// character must be escaped.
func escaped(text []byte) (r rune, size int) {
	unit := func(text []byte) rune {
		if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
			return -1
		}
		n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(n)
	}
	r, size = unit(text), 6
	if utf16.IsSurrogate(r) {
		if r, size = utf16.DecodeRune(r, unit(text[6:])), 12; r == utf8.RuneError {
			return 0, 0 // half of a pair
		}
	}
	if r < ' ' || r == '"' || r == '\\' {
		return 0, 0
	}
	return r, size
}
