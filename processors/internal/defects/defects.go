// Package defects collects what is wrong with an item and holds the rules that the kinds share: what a text, an instant or a decimal must
// be like so that it can be kept, published and shown.
package defects

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// Limits of what is kept.
const (
	// MaxKeyText is the longest text, in characters, that names something: a user, a SKU, an identifier.
	MaxKeyText = 1000
	// maxQuoted is how many characters of a value a message shows.
	maxQuoted = 100
)

// bounds[e] are the first values of exponent -e that do not fit decimal(38, 10).
var bounds = func() (all [schemas.DecimalScale + 1]struct{ lower, upper schemas.Decimal }) {
	for e := range all {
		upper := decimal.NewFromBigInt(pow10(schemas.DecimalPrecision-schemas.DecimalScale+e), int32(-e))
		all[e].lower, all[e].upper = upper.Neg(), upper
	}
	return all
}()

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// List collects the reasons of one item. The zero value is ready and allocates nothing until there is a defect.
type List struct {
	reasons []schemas.Reason
	more    int    // found beyond schemas.MaxReasons
	array   string // the line that is being looked at: array[index]; empty outside lines
	index   int
}

// In makes the fields of the following defects members of array[index], until [List.Out].
func (l *List) In(array string, index int) { l.array, l.index = array, index }

// Out ends [List.In].
func (l *List) Out() { l.array = "" }

// Path is the whole path of a field: products[2].vat_amount. Inside a line the empty field is the line itself.
func (l *List) Path(field string) string {
	if l.array == "" {
		return field
	}
	line := l.array + "[" + strconv.Itoa(l.index) + "]"
	if field == "" {
		return line
	}
	return line + "." + field
}

// Add notes a defect. The message is what follows the field's path: "is missing." for "unit is missing.". value is the offending value as
// sent, nil where it is unknown or long. Beyond [schemas.MaxReasons] defects are only counted.
func (l *List) Add(code, field string, value *string, message string) {
	if len(l.reasons) >= schemas.MaxReasons {
		l.more++
		return
	}
	path := l.Path(field)
	l.reasons = append(l.reasons, schemas.Reason{Code: code, Field: path, Value: value, Message: path + " " + message})
}

// Reasons is what was found, in the order in which it was found; nil when nothing was. The last one says how many were left out.
func (l *List) Reasons() []schemas.Reason {
	if l.more == 0 {
		return l.reasons
	}
	last := &l.reasons[schemas.MaxReasons-1]
	*last = schemas.Reason{Code: last.Code, Message: fmt.Sprintf("The item has %d more defects, which are not listed.", l.more+1)}
	return l.reasons
}

// Missing notes that a mandatory member is absent.
func (l *List) Missing(field string) { l.Add(schemas.CodeMissing, field, nil, "is missing.") }

// Name checks a mandatory text that names something: given, not blank, at most [MaxKeyText] characters, and as [List.Text] wants it.
func (l *List) Name(field string, s *string) {
	switch {
	case s == nil || *s == "":
		l.Missing(field)
	case strings.TrimSpace(*s) == "":
		l.Add(schemas.CodeMissing, field, nil, "is blank.")
	default:
		l.Short(field, s)
	}
}

// Short checks an optional text of at most [MaxKeyText] characters.
func (l *List) Short(field string, s *string) {
	if s != nil && len(*s) > MaxKeyText {
		if n := utf8.RuneCountInString(*s); n > MaxKeyText {
			l.Add(schemas.CodeOutOfRange, field, nil, fmt.Sprintf("has %d characters; at most %d are allowed.", n, MaxKeyText))
			return
		}
	}
	l.Text(field, s)
}

// Text checks that an optional text can be kept and shown: UTF-8, which Avro does not enforce, without NUL, which separates the parts of
// keys and ends a text in many an analyst's tool.
func (l *List) Text(field string, s *string) {
	if s == nil {
		return
	}
	if strings.IndexByte(*s, 0) >= 0 {
		l.Add(schemas.CodeInvalid, field, nil, "contains a NUL character.")
	} else if !utf8.ValidString(*s) {
		l.Add(schemas.CodeInvalid, field, nil, "is not valid UTF-8.")
	}
}

// Instant checks an optional instant or date against what can be kept, [schemas.InstantFits].
func (l *List) Instant(field string, t *time.Time) {
	if t == nil || schemas.InstantFits(*t) {
		return
	}
	l.Add(schemas.CodeOutOfRange, field, nil, fmt.Sprintf("lies in the year %d; it must lie between 1900-01-01 and 2261-12-31.", t.UTC().Year()))
}

// Decimal checks that an optional decimal fits decimal(38, 10) exactly.
func (l *List) Decimal(field string, d *schemas.Decimal) {
	if d == nil {
		return
	}
	// Nearly every amount is decided here, exactly and without the copies of big integers that the answer takes elsewhere: decimals of the
	// same exponent are compared as they are, however long.
	if e := -d.Exponent(); e >= 0 && e <= schemas.DecimalScale {
		if b := &bounds[e]; d.Cmp(b.lower) > 0 && d.Cmp(b.upper) < 0 {
			return
		}
	}
	if !schemas.FitsDecimal(*d) {
		// The value is not shown: 1e999999999 as digits would fill the memory.
		l.Add(schemas.CodeOutOfRange, field, nil, fmt.Sprintf("must have at most %d digits before the point and %d after it.",
			schemas.DecimalPrecision-schemas.DecimalScale, schemas.DecimalScale))
	}
}

// Quote is a value for a message: in quotes, cut where it is long, readable whatever its bytes are.
func Quote(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	n := 0
	for i := range s {
		if n == maxQuoted {
			s = s[:i] + "…"
			break
		}
		n++
	}
	return `"` + strings.ReplaceAll(s, "\x00", "\ufffd") + `"`
}

// Value is a text as [schemas.Reason] carries it: nil where it is long or cannot be shown.
func Value(s string) *string {
	if len(s) > 4*MaxKeyText || !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return nil
	}
	return &s
}
