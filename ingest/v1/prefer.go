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
	quoted := false
	separator := func(c rune) bool { // not within quotes
		quoted = quoted != (c == '"')
		return c == ',' && !quoted
	}
	for part := range strings.FieldsFuncSeq(strings.Join(headers, ","), separator) {
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
