package schemas

import (
	"strconv"
	"strings"

	"github.com/nyaruka/phonenumbers"
)

// phoneRegion is where numbers without a country code are at home: Mediahawk's. Numbers of its webhooks are national, those of sales
// international without a plus.
const phoneRegion = "GB"

// What carriers report for a caller without a number: the words as they lie on a telephone keypad, with a plus. The others that are sent so
// (ANONYMOUS, BLOCKED, RESTRICTED) are not possible numbers; these could be China's.
const (
	spelledUnavailable = "86282452253"
	spelledUnknown     = "8656696"
)

// PhoneKey makes telephone numbers comparable: the digits of E.164, country code first, so that "+44 (0)7911 123456", "07911123456",
// "447911123456" and "00447911123456" are all "447911123456". Numbers without a country code are British; a leading 44 without a plus is the
// country code where the number is too long to be national. An extension is left out.
//
// The key is empty for what is no number ("anonymous", "") and for what cannot be one by its length: such texts equal nothing, not even each
// other. That a number is assigned is not asked, so that those reserved for examples work.
func PhoneKey(text string) string {
	if key := britishKey(text); key != "" {
		return key
	}
	return parsedKey(text)
}

// britishKey is what [parsedKey] gives for numbers of ten national digits in the usual spellings, without its two dozen allocations: it is
// asked for each call. Empty means that the long way decides.
func britishKey(text string) string {
	var buf [16]byte
	digits := buf[:0]
	international := false
	for i := range len(text) {
		switch c := text[i]; {
		case '0' <= c && c <= '9':
			if len(digits) == cap(digits) {
				return ""
			}
			digits = append(digits, c)
		case c == '+':
			if i > 0 {
				return ""
			}
			international = true
		case c == ' ' || c == '-' || c == '(' || c == ')':
			if i == 0 && c != '(' {
				return ""
			}
		default:
			return ""
		}
	}
	// What is left is 44 and ten national digits, of which the first is not 0, whatever stood before.
	rest := digits
	if len(rest) > 2 && rest[0] == '0' && rest[1] == '0' && !international {
		rest, international = rest[2:], true
	}
	switch {
	case len(rest) > 2 && rest[0] == '4' && rest[1] == '4' && (international || len(rest) > 11):
		rest = rest[2:]
		if rest[0] == '0' {
			rest = rest[1:]
		}
	case !international && len(rest) == 11 && rest[0] == '0':
		rest = rest[1:]
	default:
		return ""
	}
	if len(rest) != 10 || rest[0] == '0' {
		return ""
	}
	return "44" + string(rest)
}

// parsedKey is [PhoneKey] for all spellings and countries.
func parsedKey(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return '0' <= r && r <= '9' || r >= 0x80 }) < 0 {
		return "" // most of what is withheld
	}
	number, err := phonenumbers.Parse(text, phoneRegion)
	// Zero is what the parser makes of digits of scripts that it does not know.
	if err != nil || number.GetNationalNumber() == 0 || !phonenumbers.IsPossibleNumber(number) {
		return ""
	}
	key := strconv.Itoa(int(number.GetCountryCode())) + phonenumbers.GetNationalSignificantNumber(number)
	if key == spelledUnavailable || key == spelledUnknown {
		return ""
	}
	return key
}
