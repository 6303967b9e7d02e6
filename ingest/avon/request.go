package avon

import (
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

// request is what a body holds, while it is read and afterwards. The readers of the formats (objects.go, xml.go, tables.go) call it with what
// they find; it converts and checks, and keeps the transactions and the errors.
type request struct {
	format format
	items  []ingest.Item
	// ends[i] is the number of transactions in the request DTOs up to i. There is one, and in an auto-batched request any number.
	ends []int
	// errors are those of the first DTO that has any: what follows it is not executed, and read only to see that it can be.
	errors []responseError
	failed bool
	listed bool // the DTO that is being read had its list already

	transaction *schemas.Transaction // that is being read
	seen        uint64               // its members so far, by their places
	sent        [len(members)]string // as they were sent
}

// responseError is an element of errors in a ResponseStatus.
type responseError struct {
	ErrorCode string `json:"errorCode"`
	FieldName string `json:"fieldName"`
	Message   string `json:"message"`
}

// maxErrors bounds an answer: 10,000 transactions may have 28 errors each.
const maxErrors = 1000

// begin is called at the beginning of a request DTO.
func (q *request) begin() { q.listed = false }

// end is called at the end of a request DTO.
func (q *request) end() {
	if len(q.errors) > 0 {
		q.failed = true
		return
	}
	q.ends = append(q.ends, len(q.items))
}

// first is the number of transactions before the DTO that is being read.
func (q *request) first() int {
	if len(q.ends) == 0 {
		return 0
	}
	return q.ends[len(q.ends)-1]
}

// fail notes an error of the DTO that is being read. field is the path below it, the rule follows the published sentence where it says more.
func (q *request) fail(field, name, value, rule string) {
	if q.failed || len(q.errors) > maxErrors {
		return
	}
	e := responseError{ErrorCode: serialization, FieldName: field}
	if e.Message = fmt.Sprintf("'%s' is an Invalid value for '%s'", shown(value), name); rule != "" {
		e.Message += ": " + rule
	}
	if len(q.errors) == maxErrors {
		e = responseError{ErrorCode: serialization, Message: "There are more errors, which are not listed"}
	}
	q.errors = append(q.errors, e)
}

// beginList is called where the DTO's list stands, if it is one. A DTO has one list: of two, one would be lost.
func (q *request) beginList() {
	if q.listed {
		q.fail(list, list, "", "it is given twice")
	}
	q.listed = true
}

// path is that of the transaction that is being read, or of what is in its place.
func (q *request) path() string { return list + "[" + strconv.Itoa(len(q.items)-q.first()) + "]" }

// beginTransaction is called where a transaction begins. It reports an error that ends the reading.
func (q *request) beginTransaction() error {
	if len(q.items) == ingest.MaxItems {
		return errTooMany
	}
	q.transaction, q.seen = &schemas.Transaction{}, 0
	return nil
}

var errTooMany = &ingest.Error{Code: ingest.CodeTooLarge, Message: fmt.Sprintf("The request has more than %d transactions", ingest.MaxItems), Index: -1, Cause: "items"}

// endTransaction is called where a transaction ends: what is wrong with it beyond the conversions is found here, because a DTO is taken
// whole or not at all.
func (q *request) endTransaction() {
	for _, reason := range validation.CheckTransaction(q.transaction) {
		place := placeOfField(reason.Field)
		name := members[place].name
		// A message begins with our name of the member.
		q.fail(q.path()+"."+name, name, q.sent[place], "it "+strings.TrimSuffix(strings.TrimPrefix(reason.Message, reason.Field+" "), "."))
	}
	q.items = append(q.items, ingest.Item{Value: q.transaction})
}

// set is called with each member of a transaction. What cannot be converted is an error: ServiceStack would drop the value and answer 200.
func (q *request) set(place int, v value) {
	m := &members[place]
	refuse := func(rule string) { q.fail(q.path()+"."+m.name, m.name, v.text, rule) }
	switch {
	case q.seen&(1<<place) != 0:
		refuse("it is given twice")
		return
	case v.kind == array || v.kind == object:
		refuse("")
	}
	q.seen |= 1 << place
	q.sent[place] = v.text
	if v.kind != word && v.kind != text {
		return
	}
	switch p := m.at(q.transaction).(type) {
	case **string:
		s := v.text
		*p = &s
	case **schemas.Decimal:
		if q.blank(v) {
			return
		}
		d, ok := parseDecimal(v.text, q.format == formatXML)
		if !ok {
			refuse("")
			return
		}
		*p = &d
	case **time.Time:
		if q.blank(v) {
			return
		}
		t, absent, ok := parseTime(v.text, q.format == formatXML)
		switch {
		case !ok:
			refuse("")
		case !absent:
			*p = &t
		}
	}
}

// blank reports whether a value that is no text is not given: an empty one, but in XML, where only nil is null, or the word null.
func (q *request) blank(v value) bool {
	return q.format != formatXML && (v.kind == word && v.text == "null" || strings.TrimSpace(v.text) == "")
}

// maxShown is how many characters of a value an error shows.
const maxShown = 100

// shown is a value as an error shows it, cut where it is long.
func shown(s string) string {
	n := 0
	for i := range s {
		if n == maxShown {
			s = s[:i] + "…"
			break
		}
		n++
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// malformed is a body that cannot be read at all.
type malformed struct{ problem string }

func (m *malformed) Error() string { return m.problem }

// body is what a request came with.
type body struct {
	text     string
	format   format
	boundary string     // of a multipart form
	query    url.Values // of the URL
	auto     bool       // the body is an array of request DTOs
}

// read reads a request. The error is a [*malformed], or an [*ingest.Error].
func read(b body) (*request, error) {
	if !utf8.ValidString(b.text) {
		return nil, &malformed{"the body is not UTF-8"}
	}
	q := &request{format: b.format}
	b.text = strings.TrimPrefix(b.text, "\ufeff")
	if b.auto {
		return q, q.auto(b)
	}
	q.begin()
	if err := q.one(b); err != nil {
		return nil, err
	}
	q.listed = false // what the URL has comes after it
	if err := q.parameters(b.query); err != nil {
		return nil, err
	}
	q.end()
	return q, nil
}

// one reads the body of a request that is one DTO. An empty body is an empty DTO.
func (q *request) one(b body) error {
	if strings.TrimSpace(b.text) == "" {
		return nil
	}
	switch b.format {
	case formatJSON:
		return q.object(newJSON(b.text))
	case formatJSV:
		return q.object(newJSV(b.text))
	case formatXML:
		return q.element(b.text)
	case formatCSV:
		return q.csv(b.text)
	}
	values, err := formValues(b)
	if err != nil {
		return err
	}
	for name := range values {
		// Text of another format looks like a form with a strange name: curl sends it so where nobody tells it the type.
		if strings.ContainsAny(name[:min(1, len(name))], "{[<") && len(listsIn(values)) == 0 {
			return &malformed{"the form has no " + list}
		}
	}
	if len(listsIn(values)) > 0 { // path < query < form: it replaces that of the URL, where any other body's comes before it
		maps.DeleteFunc(b.query, func(name string, _ []string) bool { return strings.EqualFold(name, list) })
	}
	return q.parameters(values)
}

// auto reads a body that is an array of DTOs.
func (q *request) auto(b body) error {
	if len(listsIn(b.query)) > 0 {
		return &malformed{list + " cannot be given in the URL beside an array of requests"}
	}
	switch b.format {
	case formatJSON:
		return q.array(newJSON(b.text))
	case formatJSV:
		return q.array(newJSV(b.text))
	case formatXML:
		return q.elements(b.text)
	}
	return &malformed{"an array of requests must be JSON, JSV or XML"}
}
