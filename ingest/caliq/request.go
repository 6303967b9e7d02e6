package caliq

import (
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest/lenient"
	"github.com/counterfoil/counterfoil/schemas"
)

// Members of the request, as the contract spells them.
const (
	apiKey              = "apiKey"
	customerID          = "CustomerID"
	accountNo           = "AccountNo"
	basedOn             = "BasedOn"
	monthsBack          = "MonthsBack"
	weeksUntilAvailable = "WeeksUntilAvailable"
)

// names are the members in the order in which what is wrong with them is listed.
var names = [...]string{apiKey, customerID, accountNo, basedOn, monthsBack, weeksUntilAvailable}

// values are the members of a request as they were sent, by their place in names; Invalid where one is absent.
type values [len(names)]lenient.Value

// prefix is the name of the parameter that a request is bound to, which every key of ModelState begins with. Caliq's is not published.
const prefix = "parameters"

// masked is what the framework says instead of the reason why a value cannot be read.
const masked = "An error has occurred."

// params is a request whose members could be read.
type params struct {
	key        string // API key; empty: none
	customerID int64  // 0: not given
	accountNo  string
	basedOn    string
	monthsBack *int32
	weeks      *int32
}

// read reads a body by its Content-Type. The error is an *[httpError] with status 400 or 415.
func read(contentType string, body []byte) (*params, error) {
	mediaType, charset := split(contentType)
	if len(body) == 0 {
		return nil, nothing()
	}
	if formatOf(mediaType) == unknownFormat {
		if mediaType == "" {
			return nil, &httpError{status: http.StatusUnsupportedMediaType, Message: "The request contains an entity body but no Content-Type header. The inferred media type 'application/octet-stream' is not supported for this resource."}
		}
		return nil, &httpError{status: http.StatusUnsupportedMediaType, Message: "The request entity's media type '" + mediaType + "' is not supported for this resource."}
	}
	text, err := decode(body, charset)
	if err != nil {
		return nil, malformed(err)
	}
	var v values
	if formatOf(mediaType) == xmlFormat {
		v, err = readXML(text)
	} else {
		v, err = readJSON(text)
	}
	switch {
	case errors.Is(err, errNothing):
		return nil, nothing()
	case err != nil:
		return nil, malformed(err)
	}
	return v.convert()
}

// errNothing says that a body holds no value, or null.
var errNothing = errors.New("there is no value")

func nothing() error {
	return &httpError{status: http.StatusBadRequest, Message: invalidRequest, detail: "The request has no body."}
}

// malformed says that a body cannot be read at all. The framework puts that at the parameter itself.
func malformed(err error) error {
	return &httpError{
		status: http.StatusBadRequest, Message: invalidRequest, detail: "The request body is malformed: " + err.Error() + ".",
		ModelState: modelState{{prefix, []string{masked}}},
	}
}

// split takes a Content-Type apart, the media type in its own spelling; empty where it is none.
func split(contentType string) (mediaType, charset string) {
	mediaType, _, _ = strings.Cut(contentType, ";")
	mediaType = strings.TrimSpace(mediaType)
	if kind, subtype, ok := strings.Cut(mediaType, "/"); !ok || kind == "" || subtype == "" {
		return "", ""
	}
	if _, parameters, err := mime.ParseMediaType(contentType); err == nil {
		charset = parameters["charset"]
	}
	return mediaType, charset
}

// decode makes a body UTF-8. A byte order mark decides before the charset, and that before what the first character looks like: in JSON and
// XML it is of ASCII.
func decode(body []byte, charset string) (string, error) {
	var wide, big bool
	switch {
	case len(body) >= 2 && body[0] == 0xff && body[1] == 0xfe:
		wide, body = true, body[2:]
	case len(body) >= 2 && body[0] == 0xfe && body[1] == 0xff:
		wide, big, body = true, true, body[2:]
	case len(body) >= 2 && (body[0] == 0 || body[1] == 0):
		wide, big = true, body[0] == 0
	case strings.EqualFold(charset, "utf-16"):
		wide = true
	}
	if !wide {
		if !utf8.Valid(body) {
			return "", errors.New("it is not UTF-8")
		}
		return strings.TrimPrefix(string(body), "\ufeff"), nil
	}
	if len(body)%2 != 0 {
		return "", errors.New("it is not UTF-16")
	}
	units := make([]uint16, len(body)/2)
	for i := range units {
		low, high := body[2*i], body[2*i+1]
		if big {
			low, high = high, low
		}
		units[i] = uint16(low) | uint16(high)<<8
	}
	return string(utf16.Decode(units)), nil
}

// readJSON reads a body as Json.NET does: names are compared without regard to case, and of two members with one name the last one counts.
func readJSON(text string) (values, error) {
	var v values
	r := lenient.NewReader(text, lenient.JSONNet)
	switch kind := r.Kind(); {
	case kind == lenient.Invalid && r.Start() == len(text) && r.Err() == nil:
		return v, errNothing
	case kind == lenient.Object:
		for r.Enter(); r.More(); {
			name := r.Name()
			value := r.Value()
			for i := range names {
				if strings.EqualFold(name, names[i]) {
					v[i] = value
				}
			}
		}
		return v, r.End()
	default:
		r.Value()
		err := r.End()
		switch {
		case err != nil:
		case kind == lenient.Null:
			err = errNothing
		default:
			err = errors.New("an object is expected")
		}
		return v, err
	}
}

// convert makes the members what they must be. Everything that cannot be converted is reported at once.
func (v *values) convert() (*params, error) {
	p := &params{}
	e := &httpError{status: http.StatusBadRequest, Message: invalidRequest}
	for i, name := range names {
		var problem string
		switch name {
		case apiKey:
			p.key, problem = text(v[i])
			p.key = strings.TrimSpace(p.key)
		case customerID:
			var id *int64
			if id, problem = integer(v[i], math.MaxInt64); id != nil {
				p.customerID = max(0, *id)
			}
		case accountNo:
			p.accountNo, problem = text(v[i])
		case basedOn:
			p.basedOn, problem = text(v[i])
		case monthsBack:
			p.monthsBack, problem = short(v[i])
		case weeksUntilAvailable:
			p.weeks, problem = short(v[i])
		}
		if problem != "" {
			e.add(prefix+"."+name, masked)
			e.detail += name + " " + problem + ". "
		}
	}
	if e.ModelState != nil {
		e.detail = strings.TrimSpace(e.detail)
		return nil, e
	}
	return p, nil
}

// text reads a text; numbers and booleans are taken as they stand.
func text(v lenient.Value) (s, problem string) {
	switch v.Kind {
	case lenient.Invalid, lenient.Null:
		return "", ""
	case lenient.Array, lenient.Object:
		return "", "must be a text"
	}
	return v.Text, ""
}

// integer reads a whole number, with or without quotes; nil where there is none, or a blank.
func integer(v lenient.Value, most int64) (n *int64, problem string) {
	s := strings.TrimSpace(v.Text)
	if v.Kind == lenient.Invalid || v.Kind == lenient.Null || v.Kind == lenient.String && s == "" {
		return nil, ""
	}
	i, err := strconv.ParseInt(s, 10, 64)
	switch {
	case v.Kind != lenient.Number && v.Kind != lenient.String || err != nil && !errors.Is(err, strconv.ErrRange):
		return nil, "must be a whole number"
	case err != nil || i > most || i < -most:
		return nil, "is out of range"
	}
	return &i, ""
}

func short(v lenient.Value) (*int32, string) {
	n, problem := integer(v, math.MaxInt32)
	if n == nil {
		return nil, problem
	}
	i := int32(*n)
	return &i, ""
}

// maxAccountNo is how many characters an account number may have, blanks included; .NET counts UTF-16's.
const maxAccountNo = 10

// question checks the fields, in the words of the framework's data annotations. The error is an *[httpError] with everything that is wrong.
func (p *params) question(tenant string, today time.Time) (schemas.BuyingReportParams, error) {
	q := schemas.BuyingReportParams{Tenant: tenant, CustomerID: p.customerID, Today: today}
	e := &httpError{status: http.StatusBadRequest, Message: invalidRequest}
	if len(utf16.Encode([]rune(p.accountNo))) > maxAccountNo {
		e.add(prefix+"."+accountNo, tooLong(accountNo, maxAccountNo))
	}
	switch account := strings.TrimSpace(p.accountNo); {
	case q.CustomerID > 0: // and whatever AccountNo says does not count
	case account == "":
		e.add(prefix+"."+accountNo, "The AccountNo field is required.")
	default:
		q.AccountNo = account
	}
	switch b := p.basedOn; {
	case strings.TrimSpace(b) == "":
		e.add(prefix+"."+basedOn, "The BasedOn field is required.")
	case len(utf16.Encode([]rune(b))) > 1:
		e.add(prefix+"."+basedOn, tooLong(basedOn, 1))
	case b == "O" || b == "o":
		q.BasedOn = schemas.BasedOnOrders
	case b == "I" || b == "i":
		q.BasedOn = schemas.BasedOnInvoices
	default:
		e.add(prefix+"."+basedOn, "The field BasedOn must be O or I.")
	}
	q.MonthsBack = e.number(monthsBack, p.monthsBack, 1)
	q.WeeksUntilAvailable = e.number(weeksUntilAvailable, p.weeks, 0)
	if e.ModelState != nil {
		return q, e
	}
	return q, nil
}

// number checks a number that must be there; the framework reports one that is not at the parameter itself.
func (e *httpError) number(name string, n *int32, least int32) int32 {
	switch {
	case n == nil:
		e.add(prefix, "The "+name+" field is required.")
		return 0
	case *n < least:
		e.add(prefix+"."+name, fmt.Sprintf("The field %s must be between %d and %d.", name, least, math.MaxInt32))
	}
	return *n
}

func tooLong(name string, most int) string {
	return fmt.Sprintf("The field %s must be a string or array type with a maximum length of '%d'.", name, most)
}
