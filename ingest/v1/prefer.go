package v1

import (
	"strconv"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
)

// preference reads how long a caller wants to wait (RFC 7240): wait=N says it, respond-async alone is wait=0. nil: nothing is said that we
// understand. applied is the value of Preference-Applied. Of a preference that stands twice the first counts; others are not ours.
func preference(headers []string) (wait *time.Duration, applied string) {
	var async, seconds string
	for rest := strings.Join(headers, ","); rest != ""; {
		var part string
		part, rest = cutUnquoted(rest)
		token, _, _ := strings.Cut(part, ";") // parameters
		name, value, _ := strings.Cut(token, "=")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			if value == "" { // RFC 7240 gives it none
				async = "respond-async"
			}
		case "wait":
			if n, err := strconv.ParseUint(value, 10, 31); err == nil && seconds == "" {
				d := min(time.Duration(n)*time.Second, ingest.MaxWait)
				wait, seconds = &d, "wait="+strconv.Itoa(int(d/time.Second))
			}
		}
	}
	if wait == nil && async != "" {
		wait = new(time.Duration)
	}
	if async != "" && seconds != "" {
		return wait, async + ", " + seconds
	}
	return wait, async + seconds
}

// cutUnquoted cuts a list at its first comma that does not lie in a quoted string (RFC 9110, 5.6.4).
func cutUnquoted(s string) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ',' && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
