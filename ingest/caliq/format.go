package caliq

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// dateLayout is the partner's spelling of dates.
const dateLayout = "20060102"

// item is an element of BuyingReportList.
type item struct {
	ID           int64
	Code         string
	Description  string
	CustPartNo   string
	Barcode      string
	EPOSBarcode  string
	Qty          int64
	LastInvoiced string
	NextAvail    string
}

// formatReport writes a report. In JSON the items are in a list with a name, in XML straight below the root; nothing is null.
func formatReport(items []schemas.BuyingReportItem, f format) []byte {
	if f == jsonFormat {
		list := make([]item, len(items))
		for i, it := range items {
			list[i] = item{it.ID, it.Code, it.Description, it.CustPartNo, it.Barcode, it.EPOSBarcode, it.Qty, formatDate(it.LastInvoiced), formatDate(it.NextAvail)}
		}
		return ingest.EncodeJSON(struct{ BuyingReportList []item }{list})
	}
	var b bytes.Buffer
	b.WriteString(`<BuyingReport xmlns:xsd="` + xsd + `" xmlns:xsi="` + xsi + `">`)
	for _, it := range items {
		b.WriteString("<BuyingReportItem>")
		element(&b, "ID", strconv.FormatInt(it.ID, 10))
		element(&b, "Code", it.Code)
		element(&b, "Description", it.Description)
		element(&b, "CustPartNo", it.CustPartNo)
		element(&b, "Barcode", it.Barcode)
		element(&b, "EPOSBarcode", it.EPOSBarcode)
		element(&b, "Qty", strconv.FormatInt(it.Qty, 10))
		if it.LastInvoiced != nil {
			element(&b, "LastInvoiced", formatDate(it.LastInvoiced))
		}
		if it.NextAvail != nil {
			element(&b, "NextAvail", formatDate(it.NextAvail))
		}
		b.WriteString("</BuyingReportItem>")
	}
	b.WriteString("</BuyingReport>")
	return b.Bytes()
}

func formatDate(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(dateLayout)
}

// httpError is an answer that is no report, in the form of the framework's class of that name: the members that are set, in this order.
type httpError struct {
	status        int
	Message       string
	MessageDetail string     `json:",omitempty"`
	ModelState    modelState `json:",omitempty"`

	detail string // what the framework masks; for the log
}

// invalidRequest is the message of everything that has a ModelState.
const invalidRequest = "The request is invalid."

func (e *httpError) Error() string {
	if e.detail != "" {
		return e.Message + " " + e.detail
	}
	return e.Message
}

// modelState is what is wrong with the members of a request. Keys are names that XML can have as they are: the framework would encode others.
type modelState []fieldErrors

type fieldErrors struct {
	key      string
	messages []string
}

// add notes what is wrong with a member.
func (e *httpError) add(key, message string) {
	for i := range e.ModelState {
		if e.ModelState[i].key == key {
			e.ModelState[i].messages = append(e.ModelState[i].messages, message)
			return
		}
	}
	e.ModelState = append(e.ModelState, fieldErrors{key, []string{message}})
}

// MarshalJSON writes an object whose members are in the order in which they were added.
func (m modelState) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(ingest.EncodeJSON(f.key))
		b.WriteByte(':')
		b.Write(ingest.EncodeJSON(f.messages))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// formatError writes an error.
func formatError(e *httpError, f format) []byte {
	if f == jsonFormat {
		return ingest.EncodeJSON(e)
	}
	var b bytes.Buffer
	b.WriteString("<Error>")
	element(&b, "Message", e.Message)
	if e.MessageDetail != "" {
		element(&b, "MessageDetail", e.MessageDetail)
	}
	if e.ModelState != nil {
		b.WriteString("<ModelState>")
		for _, m := range e.ModelState {
			element(&b, m.key, strings.Join(m.messages, " "))
		}
		b.WriteString("</ModelState>")
	}
	b.WriteString("</Error>")
	return b.Bytes()
}

// element writes an element with a text, or an empty one.
func element(b *bytes.Buffer, name, text string) {
	if text == "" {
		b.WriteString("<" + name + " />")
		return
	}
	b.WriteString("<" + name + ">")
	for _, c := range text { // what is not UTF-8 is U+FFFD here
		switch {
		case c == '&':
			b.WriteString("&amp;")
		case c == '<':
			b.WriteString("&lt;")
		case c == '>':
			b.WriteString("&gt;")
		case c == '\r': // a reader would make it a line feed
			b.WriteString("&#xD;")
		case c < ' ' && c != '\t' && c != '\n' || c == 0xfffe || c == 0xffff: // XML 1.0 cannot hold it in any spelling
			b.WriteRune('\ufffd')
		default:
			b.WriteRune(c)
		}
	}
	b.WriteString("</" + name + ">")
}
