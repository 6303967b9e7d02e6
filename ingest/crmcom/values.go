package crmcom

import (
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// zone is where dates without a zone are read.
var zone = time.UTC

// parseDate reads YYYY-MM-DD, or YYYY-MM-DDThh:mm:ss with an optional fraction and an optional Z, ±hh:mm or ±hhmm. What
// is finer than a millisecond is cut off.
func parseDate(s string) (time.Time, bool) {
	year, ok1 := digits(s, 0, 4)
	month, ok2 := digits(s, 5, 2)
	day, ok3 := digits(s, 8, 2)
	if !ok1 || !ok2 || !ok3 || s[4] != '-' || s[7] != '-' || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return time.Time{}, false
	}
	if len(s) == len("2006-01-02") {
		return time.Date(year, time.Month(month), day, 0, 0, 0, 0, zone).UTC(), true
	}
	hour, ok1 := digits(s, 11, 2)
	minute, ok2 := digits(s, 14, 2)
	second, ok3 := digits(s, 17, 2)
	if !ok1 || !ok2 || !ok3 || s[10] != 'T' || s[13] != ':' || s[16] != ':' || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	rest, milli := s[19:], 0
	if strings.HasPrefix(rest, ".") {
		n := 1
		for unit := 100; n < len(rest) && '0' <= rest[n] && rest[n] <= '9'; n++ {
			milli += int(rest[n]-'0') * unit
			unit /= 10
		}
		if n == 1 || n > 10 {
			return time.Time{}, false
		}
		rest = rest[n:]
	}
	in, ok := parseZone(rest)
	if !ok {
		return time.Time{}, false
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, milli*int(time.Millisecond), in).UTC(), true
}

// parseZone reads what stands behind the time of day.
func parseZone(s string) (*time.Location, bool) {
	switch {
	case s == "":
		return zone, true
	case s == "Z":
		return time.UTC, true
	case s[0] != '+' && s[0] != '-':
		return nil, false
	}
	hhmm := s[1:]
	if len(hhmm) == 5 && hhmm[2] == ':' {
		hhmm = hhmm[:2] + hhmm[3:]
	}
	hours, ok1 := digits(hhmm, 0, 2)
	minutes, ok2 := digits(hhmm, 2, 2)
	if !ok1 || !ok2 || len(hhmm) != 4 || hours > 18 || minutes > 59 {
		return nil, false
	}
	offset := hours*3600 + minutes*60
	if s[0] == '-' {
		offset = -offset
	}
	return time.FixedZone("", offset), true
}

// digits reads the number of n digits at s[from:].
func digits(s string, from, n int) (int, bool) {
	if len(s) < from+n {
		return 0, false
	}
	v := 0
	for _, c := range []byte(s[from : from+n]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return v, true
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// maxNumberText bounds the digits that are looked at: what fits decimal(38, 10) has no more, but for zeros.
const maxNumberText = 200

// parseDecimal reads a number in JSON's grammar exactly. It is false for what does not fit decimal(38, 10).
func parseDecimal(s string) (schemas.Decimal, bool) {
	if d, ok := parseShortDecimal(s); ok {
		return d, true
	}
	if len(s) > maxNumberText && strings.Contains(s, ".") && !strings.ContainsAny(s, "eE") {
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	if len(s) > maxNumberText {
		return schemas.Decimal{}, false
	}
	d, err := decimal.NewFromString(s)
	if err != nil || !schemas.FitsDecimal(d) {
		return schemas.Decimal{}, false
	}
	return d, true
}

// parseShortDecimal reads what nearly all amounts are like, at most 18 digits of which at most 10 are a fraction, without big integers.
func parseShortDecimal(s string) (schemas.Decimal, bool) {
	var v int64
	unsigned, negative := strings.CutPrefix(s, "-")
	seen, fraction, point := 0, 0, false
	for _, c := range []byte(unsigned) {
		switch {
		case c == '.' && !point:
			point = true
		case c < '0' || c > '9':
			return schemas.Decimal{}, false
		default:
			v = v*10 + int64(c-'0')
			if seen++; point {
				fraction++
			}
		}
		if seen > 18 || fraction > schemas.DecimalScale {
			return schemas.Decimal{}, false
		}
	}
	if !negative {
		return decimal.New(v, int32(-fraction)), true
	}
	return decimal.New(-v, int32(-fraction)), true
}
