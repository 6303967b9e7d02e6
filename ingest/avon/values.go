package avon

import (
	"math/big"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// kind is the kind of a value, whatever format it came in.
type kind uint8

const (
	invalid kind = iota
	null
	word // without quotes: a number or word in JSON, a bare text in JSV
	text
	array
	object
)

// value is a value as sent; of an array or object the text is its source.
type value struct {
	kind kind
	text string
}

// zone is where times without a zone are read.
var zone = time.UTC

// maxNumberText bounds the characters of a number that are looked at: a .NET decimal has no more than 29 digits that count.
const maxNumberText = 200

// parseDecimal reads a number exactly, by ServiceStack's grammar or by that of XML Schema, which the data contract serialiser follows:
//
//	                     12  -12.50  .5  5.  -0   +5  007   1E+3  1,234.50
//	JSON, JSV, CSV, form y   y       y   y   y    n   n     y     y
//	XML                  y   y       y   y   y    y   y     n     n
//
// White space around it does not count. Commas must part the digits before the point in threes: 1,5 is no fifteen. Whether the number fits is
// checked with the rest of the transaction.
func parseDecimal(s string, xml bool) (schemas.Decimal, bool) {
	s = strings.TrimSpace(s)
	if len(s) > maxNumberText {
		return schemas.Decimal{}, false
	}
	negative := strings.HasPrefix(s, "-")
	if negative || xml && strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	var all [maxNumberText]byte
	digits := all[:0]
	i, group, commas := 0, 0, 0 // group is how many digits stand since the last comma
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			digits = append(digits, c)
			group++
			continue
		case c == ',' && !xml && (group == 3 || commas == 0 && 0 < group && group < 3):
			commas++
			group = 0
			continue
		}
		break
	}
	if commas > 0 && group != 3 || !xml && len(digits) > 1 && digits[0] == '0' {
		return schemas.Decimal{}, false
	}
	exponent := 0
	if i < len(s) && s[i] == '.' {
		for i++; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
			digits = append(digits, s[i])
			exponent--
		}
	}
	if len(digits) == 0 {
		return schemas.Decimal{}, false
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') && !xml {
		e, ok := parseExponent(s[i+1:])
		if !ok {
			return schemas.Decimal{}, false
		}
		exponent += e
		i = len(s)
	}
	if i < len(s) {
		return schemas.Decimal{}, false
	}
	if len(digits) <= 18 { // nearly every amount
		var v int64
		for _, c := range digits {
			v = v*10 + int64(c-'0')
		}
		if negative {
			v = -v
		}
		return decimal.New(v, int32(exponent)), true
	}
	v, ok := new(big.Int).SetString(string(digits), 10)
	if negative && ok {
		v.Neg(v)
	}
	return decimal.NewFromBigInt(v, int32(exponent)), ok
}

// maxExponent is far beyond every number that fits; larger exponents make no difference.
const maxExponent = 1_000_000

func parseExponent(s string) (e int, ok bool) {
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		e = min(e*10+int(c-'0'), maxExponent)
	}
	if negative {
		e = -e
	}
	return e, s != ""
}

// parseTime reads a time in one of the spellings that ServiceStack writes, or in that of XML Schema:
//
//	/Date(1425291300000)/  /Date(1425291300000-0500)/      milliseconds since 1970; the offset does not move them
//	2015-03-02  20150302                                    midnight
//	2015-03-02T10:15:00[.1234567][Z|-05:00]                 the only one in XML
//	2015-03-02 10:15:00[.1234567]Z
//
// White space around it does not count. Absent is the first instant of the year 1, in any zone: it is what .NET has where no time was set.
func parseTime(s string, xml bool) (t time.Time, absent, ok bool) {
	s = strings.TrimSpace(s)
	// JSON's escape of the slashes is undone where the body is JSON; in other forms some writers leave it in.
	if rest, found := strings.CutPrefix(strings.TrimPrefix(s, `\`), "/Date("); found && !xml {
		rest, slash := strings.CutSuffix(rest, "/")
		rest, bracket := strings.CutSuffix(strings.TrimSuffix(rest, `\`), ")")
		ms, ok := parseMillis(rest)
		if !slash || !bracket || !ok {
			return time.Time{}, false, false
		}
		t = time.UnixMilli(ms).UTC()
		return t, t.IsZero(), true
	}
	var year, month, day int
	var ok1, ok2, ok3 bool
	if len(s) == len("20060102") && !xml {
		year, ok1 = number(s, 0, 4)
		month, ok2 = number(s, 4, 2)
		day, ok3 = number(s, 6, 2)
		s = ""
	} else {
		year, ok1 = number(s, 0, 4)
		month, ok2 = number(s, 5, 2)
		day, ok3 = number(s, 8, 2)
		if !ok1 || !ok2 || !ok3 || s[4] != '-' || s[7] != '-' {
			return time.Time{}, false, false
		}
		if s = s[len("2006-01-02"):]; s == "" && xml {
			return time.Time{}, false, false
		}
	}
	if !ok1 || !ok2 || !ok3 || year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return time.Time{}, false, false
	}
	clock, in, ok := parseClock(s, xml)
	if !ok {
		return time.Time{}, false, false
	}
	t = time.Date(year, time.Month(month), day, 0, 0, 0, 0, in).Add(clock).UTC()
	return t, clock == 0 && year == 1 && month == 1 && day == 1, true
}

// parseMillis reads what stands between the brackets of /Date()/.
func parseMillis(s string) (ms int64, ok bool) {
	digits := strings.TrimPrefix(s, "-")
	end := strings.IndexAny(digits, "+-")
	if end >= 0 {
		if _, ok := number(digits, end+1, 4); !ok || len(digits) != end+5 {
			return 0, false
		}
		digits = digits[:end]
	}
	if len(digits) == 0 || len(digits) > 15 { // the years of .NET need 15
		return 0, false
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return 0, false
		}
		ms = ms*10 + int64(c-'0')
	}
	if s[0] == '-' {
		ms = -ms
	}
	return ms, true
}

// parseClock reads what follows the day: nothing, or the time of day with its zone. A blank in the place of the T wants a Z at the end.
func parseClock(s string, xml bool) (clock time.Duration, in *time.Location, ok bool) {
	if s == "" {
		return 0, zone, true
	}
	blank := s[0] == ' ' && !xml && strings.HasSuffix(s, "Z")
	if s[0] != 'T' && !blank {
		return 0, nil, false
	}
	hour, ok1 := number(s, 1, 2)
	minute, ok2 := number(s, 4, 2)
	second, ok3 := number(s, 7, 2)
	if !ok1 || !ok2 || !ok3 || s[3] != ':' || s[6] != ':' || hour > 23 || minute > 59 || second > 59 {
		return 0, nil, false
	}
	clock = time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	if s = s[9:]; strings.HasPrefix(s, ".") {
		n := 1
		for unit := 100 * time.Millisecond; n < len(s) && '0' <= s[n] && s[n] <= '9'; n++ {
			clock += time.Duration(s[n]-'0') * unit
			unit /= 10
		}
		if n == 1 || n > 8 { // .NET counts tenths of microseconds: what is finer is refused, not cut off
			return 0, nil, false
		}
		s = s[n:]
	}
	switch {
	case s == "":
		return clock, zone, true
	case s == "Z":
		return clock, time.UTC, true
	case len(s) != 6 || s[0] != '+' && s[0] != '-' || s[3] != ':':
		return 0, nil, false
	}
	hours, ok1 := number(s, 1, 2)
	minutes, ok2 := number(s, 4, 2)
	if !ok1 || !ok2 || minutes > 59 || hours*60+minutes > 14*60 {
		return 0, nil, false
	}
	offset := hours*3600 + minutes*60
	if s[0] == '-' {
		offset = -offset
	}
	return clock, time.FixedZone("", offset), true
}

// number reads the n digits at s[from:].
func number(s string, from, n int) (int, bool) {
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
