package lenient

import "unicode/utf8"

// Shorter writes a JSON text, which is not checked, without the blanks between its parts and with characters in place of their escapes: it says
// the same in fewer bytes. What is no character, as half a pair, and what must be escaped stays as it is.
func Shorter(text string) []byte {
	out := make([]byte, 0, len(text)/2)
	inside := false // a string
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case !inside && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
		case inside && c == '\\' && i+1 < len(text):
			if r, n := unicodeEscape(text[i:]); r >= ' ' && r != '"' && r != '\\' && r != utf8.RuneError {
				out = utf8.AppendRune(out, r)
				i += n - 1
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
