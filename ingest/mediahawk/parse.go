package mediahawk

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/schemas"
)

// upload is a request that was read: its sales, or what is wrong with them.
type upload struct {
	lookback int32
	sales    []*sale // the last of each id
	defects  []defect
}

// defect is one reason why a request is refused.
type defect struct {
	Field   string `json:"field"` // path as the contract spells it, such as sales[3].date; empty for the whole body
	Message string `json:"message"`
}

// sale is one sale of a request with room for what its members point to: one piece of memory for all of them.
type sale struct {
	schemas.Sale
	index   int                       // in the request's sales
	named   struct{ mhid, clis bool } // members that are there, if with null
	defects []defect

	id, description, value, mhid string
	date                         time.Time
	clis                         []string
}

// malformed says that a body cannot be read at all.
func malformed(err error) error {
	return ingest.NewError(ingest.CodeMalformed, fmt.Sprintf("The request body is not valid JSON: %v", err))
}

var errTooMany = &ingest.Error{Code: ingest.CodeTooLarge, Message: fmt.Sprintf("The request has more than %d sales", ingest.MaxItems), Index: -1, Cause: "items"}

// parse reads a body. Of two members with one name the last one counts; what is not known is ignored. The error is an *[ingest.Error];
// defects are none. Texts of the result are parts of the body.
func parse(body string) (*upload, error) {
	if !utf8.ValidString(body) {
		return nil, ingest.NewError(ingest.CodeMalformed, "The request body is not UTF-8")
	}
	u := &upload{}
	r := lenient.NewReader(body, lenient.JSON)
	if k := r.Kind(); k != lenient.Object {
		r.Value()
		if err := r.End(); err != nil {
			return nil, malformed(err)
		}
		u.defects = []defect{{"", "must be an object"}}
		return u, nil
	}
	var lookback lenient.Value
	var notArray []defect
	for r.Enter(); r.More(); {
		switch r.Name() {
		case "lookback":
			lookback = r.Value()
		case "sales":
			u.sales, notArray = nil, nil
			if r.Kind() != lenient.Array {
				if v := r.Value(); v.Kind != lenient.Null {
					notArray = []defect{{"sales", "must be an array"}}
				}
				continue
			}
			for r.Enter(); r.More(); {
				if len(u.sales) == ingest.MaxItems {
					return nil, errTooMany
				}
				u.sales = append(u.sales, readSale(r, len(u.sales)))
			}
		default:
			r.Value()
		}
	}
	if err := r.End(); err != nil {
		return nil, malformed(err)
	}
	var message string
	if u.lookback, message = readLookback(lookback); message != "" {
		u.defects = append(u.defects, defect{"lookback", message})
	}
	u.defects = append(u.defects, notArray...)
	u.check()
	if u.defects == nil {
		u.dropRepeated()
	}
	return u, nil
}

// check runs the check of the kind on every sale, and collects what is wrong with them.
func (u *upload) check() {
	lookback := u.lookback
	if lookback == 0 { // its own defect is noted once, not with each sale
		lookback = matching.MinLookback
	}
	for _, s := range u.sales {
		s.Lookback = &lookback
		// The partner's contract wants both members, and one of them may say nothing; to us either is enough.
		if !s.named.mhid && !s.has("mhid") {
			s.defect("mhid", "is required")
		}
		if !s.named.clis && !s.has("clis") {
			s.defect("clis", "is required")
		}
		for _, reason := range matching.Check(&s.Sale) {
			// What could not be read is not to be called missing as well, nor is the other one of two.
			if either := reason.Field == "mhid" && reason.Code == schemas.CodeMissing && s.has("clis"); !either && !s.has(reason.Field) {
				s.defects = append(s.defects, describe(&reason))
			}
		}
		for _, d := range s.defects {
			if len(u.defects) == maxDefects {
				u.defects = append(u.defects, defect{"", "there are more errors, which are not listed"})
				return
			}
			path := "sales[" + strconv.Itoa(s.index) + "]"
			if d.Field != "" {
				path += "." + d.Field
			}
			u.defects = append(u.defects, defect{path, d.Message})
		}
	}
}

// maxDefects bounds an answer: 10,000 sales may have some defects each.
const maxDefects = 10_000

// describe puts a reason into the partner's form, where the field does not stand in the message.
func describe(r *schemas.Reason) defect {
	message := strings.TrimSuffix(strings.TrimPrefix(r.Message, r.Field+" "), ".")
	if message == "is missing" {
		message = "is required"
	}
	return defect{r.Field, message}
}

// dropRepeated keeps the last sale of each id.
func (u *upload) dropRepeated() {
	last := make(map[string]int, len(u.sales))
	for i, s := range u.sales {
		if s.ID != nil {
			last[*s.ID] = i
		}
	}
	kept := u.sales[:0]
	for i, s := range u.sales {
		if s.ID == nil || last[*s.ID] == i {
			kept = append(kept, s)
		}
	}
	u.sales = kept
}

// readLookback reads a whole number, with or without quotes and a fraction of zeros; message says what is wrong.
func readLookback(v lenient.Value) (months int32, message string) {
	if v.Kind == lenient.Invalid || v.Kind == lenient.Null {
		return 0, "is required"
	}
	text := v.Text
	if whole, fraction, ok := strings.Cut(text, "."); ok && fraction != "" && strings.Trim(fraction, "0") == "" {
		text = whole
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if v.Kind != lenient.Number && v.Kind != lenient.String || err != nil || n < matching.MinLookback || n > matching.MaxLookback {
		return 0, fmt.Sprintf("must be a whole number from %d to %d", matching.MinLookback, matching.MaxLookback)
	}
	return int32(n), ""
}

// readSale reads one element of sales.
func readSale(r *lenient.Reader, index int) *sale {
	s := &sale{index: index}
	if r.Kind() != lenient.Object {
		if v := r.Value(); v.Kind != lenient.Invalid {
			s.defect("", "must be an object")
		}
		return s
	}
	for r.Enter(); r.More(); {
		name := r.Name()
		s.forget(name)
		switch name {
		case "id":
			if s.ID = s.text(name, r.Value(), &s.id); s.id == "" {
				s.ID = nil
			}
		case "description":
			s.Description = s.text(name, r.Value(), &s.description)
		case "value":
			s.Value = s.text(name, r.Value(), &s.value)
		case "mhid":
			s.named.mhid = true
			s.MHID = s.text(name, r.Value(), &s.mhid)
		case "date":
			s.Date = s.readDate(r.Value())
		case "clis":
			s.named.clis = true
			s.CLIs = s.readCLIs(r)
		case "properties":
			s.Properties = s.readProperties(r)
		default:
			r.Value()
		}
	}
	return s
}

func (s *sale) defect(field, message string) {
	s.defects = append(s.defects, defect{field, message})
}

// forget takes back what was wrong with a member that comes once more.
func (s *sale) forget(name string) {
	s.defects = slices.DeleteFunc(s.defects, func(d defect) bool { return d.Field == name || strings.HasPrefix(d.Field, name+"[") })
}

// has reports whether a field has a defect, or the sale as a whole.
func (s *sale) has(field string) bool {
	for i := range s.defects {
		if s.defects[i].Field == field || s.defects[i].Field == "" {
			return true
		}
	}
	return false
}

// text reads a text into a place of the sale's own. Numbers are taken as they stand: never by way of a float.
func (s *sale) text(field string, v lenient.Value, to *string) *string {
	switch v.Kind {
	case lenient.Null, lenient.Invalid:
		*to = ""
		return nil
	case lenient.Array, lenient.Object, lenient.Bool:
		s.defect(field, "must be a string")
		*to = ""
		return nil
	}
	*to = v.Text
	return to
}

// readDate reads a date as the contract spells it and in no other way: nothing is cut off.
func (s *sale) readDate(v lenient.Value) *time.Time {
	if v.Kind == lenient.Null {
		return nil
	}
	var err error
	if s.date, err = time.Parse(time.DateOnly, v.Text); err != nil || v.Kind != lenient.String {
		s.defect("date", "must be a date formatted YYYY-MM-DD")
		return nil
	}
	return &s.date
}

// readCLIs reads the caller numbers, as they were sent.
func (s *sale) readCLIs(r *lenient.Reader) *[]string {
	if r.Kind() != lenient.Array {
		if v := r.Value(); v.Kind != lenient.Null {
			s.defect("clis", "must be an array of strings")
		}
		return nil
	}
	s.clis = make([]string, 0, 1) // most customers have one
	for r.Enter(); r.More(); {
		v := r.Value()
		if v.Kind != lenient.String && v.Kind != lenient.Number {
			s.defect("clis["+strconv.Itoa(len(s.clis))+"]", "must be a string")
		}
		s.clis = append(s.clis, v.Text)
	}
	return &s.clis
}

// readProperties reads the caller's own properties.
func (s *sale) readProperties(r *lenient.Reader) []schemas.SaleProperty {
	if r.Kind() != lenient.Array {
		if v := r.Value(); v.Kind != lenient.Null {
			s.defect("properties", "must be an array of objects")
		}
		return nil
	}
	var all []schemas.SaleProperty
	for r.Enter(); r.More(); {
		if r.Kind() != lenient.Object {
			r.Value()
			s.defect("properties["+strconv.Itoa(len(all))+"]", "must be an object")
			all = append(all, schemas.SaleProperty{})
			continue
		}
		var key, value lenient.Value
		for r.Enter(); r.More(); {
			switch r.Name() {
			case "key":
				key = r.Value()
			case "value":
				value = r.Value()
			default:
				r.Value()
			}
		}
		room := new(struct{ key, value string })
		all = append(all, schemas.SaleProperty{
			Key:   s.propertyText(len(all), "key", key, &room.key),
			Value: s.propertyText(len(all), "value", value, &room.value),
		})
	}
	return all
}

func (s *sale) propertyText(index int, name string, v lenient.Value, to *string) *string {
	if v.Kind == lenient.Array || v.Kind == lenient.Object || v.Kind == lenient.Bool {
		name = "properties[" + strconv.Itoa(index) + "]." + name
	}
	return s.text(name, v, to)
}
