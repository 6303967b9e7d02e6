package caliq

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// core stands in for the core and for ClickHouse.
type core struct {
	t       *testing.T
	auth    error
	body    error
	reports error
	items   []schemas.BuyingReportItem
	asked   *schemas.BuyingReportParams
}

func (c *core) Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error) {
	if door != ingest.DoorCaliq {
		c.t.Errorf("door %q", door)
	}
	if c.auth != nil {
		return nil, c.auth
	}
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if extra[0].ID != "" {
		key = extra[0].ID + "." + extra[0].Secret
	}
	if key != "K.1" {
		return nil, ingest.NewError(ingest.CodeUnauthenticated, "no")
	}
	return &ingest.Caller{Tenant: "demo", KeyID: "K", Door: door}, nil
}

func (c *core) ReadBody(r *http.Request) ([]byte, error) {
	if c.body != nil {
		return nil, c.body
	}
	var b bytes.Buffer
	_, err := b.ReadFrom(r.Body)
	return b.Bytes(), err
}

func (c *core) BuyingReport(_ context.Context, p schemas.BuyingReportParams) ([]schemas.BuyingReportItem, error) {
	if now := time.Now().UTC(); p.Tenant != "demo" || p.Today != now.Truncate(24*time.Hour) {
		c.t.Errorf("asked for %q on %v", p.Tenant, p.Today)
	}
	p.Tenant, p.Today = "", time.Time{}
	c.asked = &p
	return c.items, c.reports
}

// serve sends one request to an adapter over c.
func serve(c *core, method, path string, header http.Header, body []byte) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	New(c, c).Register(mux)
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

const (
	path       = Base + operation
	jsonSample = `{"apiKey":"K.1","CustomerID":0,"AccountNo":"ACME01","BasedOn":"I","MonthsBack":12,"WeeksUntilAvailable":0}`
	xmlSample  = `<CustomerBuyingReportParams><apiKey>K.1</apiKey><CustomerID>77</CustomerID><AccountNo></AccountNo>
<BasedOn>O</BasedOn><MonthsBack>6</MonthsBack><WeeksUntilAvailable>4</WeeksUntilAvailable></CustomerBuyingReportParams>`
)

var lamp = schemas.BuyingReportItem{ID: 9, Code: "P-9", Description: "Lamp", Barcode: "501", Qty: 3, LastInvoiced: day("2023-01-31")}

const (
	lampJSON = `{"BuyingReportList":[{"ID":9,"Code":"P-9","Description":"Lamp","CustPartNo":"","Barcode":"501","EPOSBarcode":"","Qty":3,"LastInvoiced":"20230131","NextAvail":""}]}`
	lampXML  = `<BuyingReport xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
		`<BuyingReportItem><ID>9</ID><Code>P-9</Code><Description>Lamp</Description><CustPartNo /><Barcode>501</Barcode><EPOSBarcode /><Qty>3</Qty><LastInvoiced>20230131</LastInvoiced></BuyingReportItem></BuyingReport>`
)

func day(text string) *time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return &t
}

func utf16Of(text string, mark, big bool) []byte {
	var b []byte
	if mark {
		text = "\ufeff" + text
	}
	for _, u := range utf16.Encode([]rune(text)) {
		if big {
			u = u<<8 | u>>8
		}
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// TestQuestions has what is understood. The numbers are those of the transcripts in test/conformance.
func TestQuestions(t *testing.T) {
	acme := schemas.BuyingReportParams{AccountNo: "ACME01", BasedOn: "I", MonthsBack: 12}
	one := schemas.BuyingReportParams{CustomerID: 77, BasedOn: "O", MonthsBack: 6, WeeksUntilAvailable: 4}
	published := schemas.BuyingReportParams{CustomerID: 2, BasedOn: "I", MonthsBack: 5, WeeksUntilAvailable: 6}
	with := func(old, changed string) []byte { return []byte(strings.Replace(jsonSample, old, changed, 1)) }
	const rest = `"BasedOn":"I","MonthsBack":12,"WeeksUntilAvailable":0}`
	for _, test := range []struct {
		name, contentType string
		body              []byte
		want              schemas.BuyingReportParams
	}{
		{"JSON", "application/json", []byte(jsonSample), acme},
		{"text/json", "text/json", []byte(jsonSample), acme},
		{"7: odd case, charset", "Text/JSON; Charset=UTF-8", []byte(jsonSample), acme},
		{"the published JSON, with values that mean something", "application/json", []byte(`{ "apiKey": "K.1", "CustomerID": 2, "AccountNo": "sample str", "BasedOn": "I", "MonthsBack": 5, "WeeksUntilAvailable": 6 }`), published},
		{"XML", "application/xml", []byte(xmlSample), one},
		{"7: text/xml in odd case", "TEXT/Xml; charset=\"utf-8\"", []byte(xmlSample), one},
		{"the published XML", "text/xml", []byte(`<CustomerBuyingReportParams xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"> <apiKey>K.1</apiKey> <CustomerID>2</CustomerID> <AccountNo>sample str</AccountNo> <BasedOn>I</BasedOn> <MonthsBack>5</MonthsBack> <WeeksUntilAvailable>6</WeeksUntilAvailable> </CustomerBuyingReportParams>`), published},
		{"XML with a declaration and a mark", "text/xml", []byte("\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?>\n" + xmlSample + "<!-- end -->\n"), one},
		{"8: any order, CDATA, references, comments, unknown elements", "text/xml", []byte(`<CustomerBuyingReportParams><WeeksUntilAvailable> 4 </WeeksUntilAvailable><x y="1"><BasedOn>I</BasedOn></x><BasedOn>&#79;</BasedOn><MonthsBack>6<!-- six --></MonthsBack><CustomerID><![CDATA[77]]></CustomerID><y:BasedOn xmlns:y="urn:y">I</y:BasedOn><apiKey>K.1</apiKey></CustomerBuyingReportParams>`), one},
		{"8: xsi:nil", "text/xml", []byte(strings.NewReplacer("<CustomerID>", `<CustomerID xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:nil="true">`, "<AccountNo>", "<AccountNo>ACME01").Replace(xmlSample)), schemas.BuyingReportParams{AccountNo: "ACME01", BasedOn: "O", MonthsBack: 6, WeeksUntilAvailable: 4}},
		{"UTF-16 by its mark", "text/xml", utf16Of(xmlSample, true, false), one},
		{"UTF-16 big endian by its mark", "text/json", utf16Of(jsonSample, true, true), acme},
		{"UTF-16 by its charset and declaration", "text/xml; charset=utf-16", utf16Of(`<?xml version="1.0" encoding="utf-16"?>`+xmlSample, false, false), one},
		{"UTF-16 by its looks", "text/json", utf16Of(jsonSample, false, true), acme},
		{"an unknown charset", "text/json; charset=klingon", []byte(jsonSample), acme},
		{"a broken parameter", "application/json; charset", []byte(jsonSample), acme},
		{"1: both, the id wins", "text/json", with(`"CustomerID":0`, `"CustomerID":77`), schemas.BuyingReportParams{CustomerID: 77, BasedOn: "I", MonthsBack: 12}},
		{"1: a negative id is none", "text/json", with(`"CustomerID":0`, `"CustomerID":-1`), acme},
		{"1: no id", "text/json", with(`"CustomerID":0,`, ``), acme},
		{"1: null", "text/json", with(`"CustomerID":0`, `"CustomerID":null`), acme},
		{"1: a blank id", "text/json", with(`"CustomerID":0`, `"CustomerID":" "`), acme},
		{"1: no account", "text/json", []byte(`{"apiKey":"K.1","CustomerID":3000000000,` + rest), schemas.BuyingReportParams{CustomerID: 3000000000, BasedOn: "I", MonthsBack: 12}},
		{"2: quoted numbers", "text/json", []byte(`{"apiKey":"K.1","CustomerID":"77","BasedOn":"O","MonthsBack":" 6 ","WeeksUntilAvailable":"+4"}`), one},
		{"2: a number for a text", "text/json", with(`"ACME01"`, `1234`), schemas.BuyingReportParams{AccountNo: "1234", BasedOn: "I", MonthsBack: 12}},
		{"2: names in any case", "text/json", []byte(`{"APIKEY":"K.1","customerid":77,"basedON":"O","monthsback":6,"WEEKSUNTILAVAILABLE":4}`), one},
		{"2: the last of two members counts", "text/json", []byte(`{"apiKey":"x","apikey":"K.1","CustomerID":1,"customerID":77,"BasedOn":{},"BasedOn":"O","MonthsBack":6,"WeeksUntilAvailable":4}`), one},
		{"2: single quotes, bare names, comments, unknown members", "text/json", []byte("{apiKey:'K.1',/* c */CustomerID:77,'BasedOn':'O',MonthsBack:6,Other:[{}],WeeksUntilAvailable:4,}// end\n"), one},
		{"3: lower case", "text/json", with(`"I"`, `"i"`), acme},
		{"4: blanks are cut off", "text/json", with(`"ACME01"`, `" ACME01  "`), acme},
		{"4: ten characters", "text/json", with(`"ACME01"`, `"ÄÖÜ4567890"`), schemas.BuyingReportParams{AccountNo: "ÄÖÜ4567890", BasedOn: "I", MonthsBack: 12}},
		{"blanks around the key", "text/json", with(`"K.1"`, `" K.1 "`), acme},
		{"a key in a header", "text/json", with(`"apiKey":"K.1",`, ``), acme},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &core{t: t, items: []schemas.BuyingReportItem{lamp}}
			w := serve(c, "POST", path, header("Content-Type", test.contentType, "Accept", "text/json", "Authorization", "Bearer K.1"), test.body)
			if w.Code != 200 || w.Body.String() != lampJSON {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if diff := cmp.Diff(&test.want, c.asked); diff != "" {
				t.Errorf("question (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRefusals has what is no report, in both formats.
func TestRefusals(t *testing.T) {
	with := func(old, changed string) string { return strings.Replace(jsonSample, old, changed, 1) }
	state := func(detail string, pairs ...string) string {
		e := &httpError{Message: "The request is invalid.", detail: detail}
		for i := 0; i < len(pairs); i += 2 {
			e.add(pairs[i], pairs[i+1])
		}
		return string(ingest.EncodeJSON(e))
	}
	const (
		denied    = `{"Message":"Authorization has been denied for this request."}`
		nothing   = `{"Message":"The request is invalid."}`
		masked    = "An error has occurred."
		malformed = "The request body is malformed: "
	)
	busy := &ingest.Error{Code: ingest.CodeBusy, Message: "memory is short", Index: -1, RetryAfter: time.Second}
	for _, test := range []struct {
		name        string
		core        core
		method      string
		path        string
		contentType string // application/json; "-": none
		body        string // a good one
		status      int
		want        string
	}{
		{name: "no key", body: with(`"apiKey":"K.1",`, ``), status: 401, want: denied},
		{name: "null as key", body: with(`"K.1"`, `null`), status: 401, want: denied},
		{name: "a wrong key", body: with(`"K.1"`, `"K.2"`), status: 401, want: denied},
		{name: "a wrong key with wrong fields", body: `{"apiKey":"x"}`, status: 401, want: denied},
		{name: "a key from another address", core: core{auth: ingest.NewError(ingest.CodeForbidden, "address")}, status: 401, want: denied},
		{name: "too often", core: core{auth: &ingest.Error{Code: ingest.CodeRateLimited, Message: "too many requests with this API key", Index: -1, RetryAfter: time.Second}}, status: 429, want: `{"Message":"Too many requests with this API key."}`},

		{name: "no Content-Type", contentType: "-", status: 415, want: `{"Message":"The request contains an entity body but no Content-Type header. The inferred media type 'application/octet-stream' is not supported for this resource."}`},
		{name: "no media type", contentType: "json", status: 415, want: `{"Message":"The request contains an entity body but no Content-Type header. The inferred media type 'application/octet-stream' is not supported for this resource."}`},
		{name: "text/plain", contentType: "text/plain; charset=utf-8", status: 415, want: `{"Message":"The request entity's media type 'text/plain' is not supported for this resource."}`},
		{name: "a form", contentType: "application/x-www-form-urlencoded", body: "apiKey=K.1", status: 415, want: `{"Message":"The request entity's media type 'application/x-www-form-urlencoded' is not supported for this resource."}`},
		{name: "its own spelling", contentType: "Text/Plain", status: 415, want: `{"Message":"The request entity's media type 'Text/Plain' is not supported for this resource."}`},
		{name: "another content encoding", core: core{body: ingest.NewError(ingest.CodeUnsupported, "content encoding must be gzip or none")}, status: 415, want: `{"Message":"Content encoding must be gzip or none."}`},
		{name: "more than six members can have", body: with(`0,`, `0,"x":"`+strings.Repeat("x", maxBody)+`",`), status: 413, want: `{"Message":"The body has more than 65536 bytes."}`},
		{name: "too large", core: core{body: ingest.NewError(ingest.CodeTooLarge, "the body has more than 16777216 bytes")}, status: 413, want: `{"Message":"The body has more than 16777216 bytes."}`},

		{name: "no body", body: "-", status: 400, want: nothing},
		{name: "no body and no type", contentType: "-", body: "-", status: 400, want: nothing},
		{name: "blanks", body: " /* nothing */ \n", status: 400, want: nothing},
		{name: "null", body: "null", status: 400, want: nothing},
		{name: "an array", body: "[" + jsonSample + "]", status: 400, want: state(malformed+"an object is expected.", "parameters", masked)},
		{name: "cut off", body: `{"apiKey":"K.1"`, status: 400, want: state(malformed+"unexpected end, a } is missing at line 1, column 16.", "parameters", masked)},
		{name: "too deep", body: with(`0,`, strings.Repeat("[", 80)+strings.Repeat("]", 80)+`,`), status: 400, want: state(malformed+"nested deeper than 64 levels at line 1, column 93.", "parameters", masked)},
		{name: "no UTF-8", body: with("ACME01", "\xff"), status: 400, want: state(malformed+"it is not UTF-8.", "parameters", masked)},
		{name: "half of UTF-16", contentType: "text/json; charset=utf-16", body: "\xff\xfe{", status: 400, want: state(malformed+"it is not UTF-16.", "parameters", masked)},
		{name: "what cannot be converted, all of it", body: `{"apiKey":"x","CustomerID":"abc","AccountNo":[],"BasedOn":{},"MonthsBack":6.5,"WeeksUntilAvailable":2147483648}`, status: 400,
			want: state("CustomerID must be a whole number. AccountNo must be a text. BasedOn must be a text. MonthsBack must be a whole number. WeeksUntilAvailable is out of range.",
				"parameters.CustomerID", masked, "parameters.AccountNo", masked, "parameters.BasedOn", masked, "parameters.MonthsBack", masked, "parameters.WeeksUntilAvailable", masked)},
		{name: "a key that is none, a truth for a number", body: `{"apiKey":[],"CustomerID":true}`, status: 400,
			want: state("apiKey must be a text. CustomerID must be a whole number.", "parameters.apiKey", masked, "parameters.CustomerID", masked)},
		{name: "absurd", body: with(`:0,"Acc`, `:99999999999999999999,"Acc`), status: 400, want: state("CustomerID is out of range.", "parameters.CustomerID", masked)},

		{name: "nothing but a key", body: `{"apiKey":"K.1"}`, status: 400, want: state("",
			"parameters.AccountNo", "The AccountNo field is required.", "parameters.BasedOn", "The BasedOn field is required.",
			"parameters", "The MonthsBack field is required.", "parameters", "The WeeksUntilAvailable field is required.")},
		{name: "a blank account", body: with("ACME01", "  "), status: 400, want: state("", "parameters.AccountNo", "The AccountNo field is required.")},
		{name: "3: a word", body: with(`"I"`, `"Orders"`), status: 400, want: state("", "parameters.BasedOn", "The field BasedOn must be a string or array type with a maximum length of '1'.")},
		{name: "3: empty", body: with(`"I"`, `""`), status: 400, want: state("", "parameters.BasedOn", "The BasedOn field is required.")},
		{name: "3: a blank", body: with(`"I"`, `" "`), status: 400, want: state("", "parameters.BasedOn", "The BasedOn field is required.")},
		{name: "3: another letter", body: with(`"I"`, `"X"`), status: 400, want: state("", "parameters.BasedOn", "The field BasedOn must be O or I.")},
		{name: "3: a dotless i", body: with(`"I"`, `"ı"`), status: 400, want: state("", "parameters.BasedOn", "The field BasedOn must be O or I.")},
		{name: "4: eleven characters", body: with("ACME01", "12345678901"), status: 400, want: state("", "parameters.AccountNo", "The field AccountNo must be a string or array type with a maximum length of '10'.")},
		{name: "4: eleven with blanks, although the id counts", body: strings.Replace(with("ACME01", "123456789  "), `:0,"Acc`, `:7,"Acc`, 1), status: 400, want: state("", "parameters.AccountNo", "The field AccountNo must be a string or array type with a maximum length of '10'.")},
		{name: "4: six characters that .NET counts twice", body: with("ACME01", "😀😀😀😀😀😀"), status: 400, want: state("", "parameters.AccountNo", "The field AccountNo must be a string or array type with a maximum length of '10'.")},
		{name: "5: negative weeks", body: with(`Available":0`, `Available":-1`), status: 400, want: state("", "parameters.WeeksUntilAvailable", "The field WeeksUntilAvailable must be between 0 and 2147483647.")},
		{name: "no months", body: with(`:12`, `:0`), status: 400, want: state("", "parameters.MonthsBack", "The field MonthsBack must be between 1 and 2147483647.")},
		{name: "negative months", body: with(`:12`, `:-12`), status: 400, want: state("", "parameters.MonthsBack", "The field MonthsBack must be between 1 and 2147483647.")},

		{name: "ClickHouse is away", core: core{reports: errors.New("secret")}, status: 503, want: `{"Message":"The report cannot be read at the moment."}`},
		{name: "busy", core: core{body: busy}, status: 503, want: `{"Message":"Memory is short."}`},
		{name: "our fault", core: core{body: errors.New("secret")}, status: 500, want: `{"Message":"An error has occurred."}`},

		{name: "GET", method: "GET", status: 405, want: `{"Message":"The requested resource does not support http method 'GET'."}`},
		{name: "DELETE, with a slash", method: "DELETE", path: path + "/", status: 405, want: `{"Message":"The requested resource does not support http method 'DELETE'."}`},
		{name: "another operation", path: "/api/v1/Pulse", status: 404, want: `{"Message":"No HTTP resource was found that matches the request URI 'http://example.com/api/v1/Pulse'.","MessageDetail":"No type was found that matches the controller named 'Pulse'."}`},
		{name: "a longer path", path: path + "/5?x=1", status: 404, want: `{"Message":"No HTTP resource was found that matches the request URI 'http://example.com/api/v1/CustomerBuyingReport/5'.","MessageDetail":"No type was found that matches the controller named 'CustomerBuyingReport/5'."}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.method == "" {
				test.method = "POST"
			}
			if test.path == "" {
				test.path = path
			}
			if test.body == "" {
				test.body = jsonSample
			}
			h := header("Content-Type", "application/json")
			if test.contentType != "" {
				h.Set("Content-Type", test.contentType)
			}
			if test.contentType == "-" {
				h.Del("Content-Type")
			}
			test.core.t = t
			w := serve(&test.core, test.method, test.path, h, []byte(strings.TrimPrefix(test.body, "-")))
			if diff := cmp.Diff(test.want, w.Body.String()); diff != "" || w.Code != test.status {
				t.Errorf("status %d, answer (-want +got):\n%s", w.Code, diff)
			}
			headers := map[string]string{
				"Allow":            map[int]string{405: "POST"}[test.status],
				"Retry-After":      map[int]string{503: "1", 429: "1"}[test.status],
				"WWW-Authenticate": map[int]string{401: "Bearer"}[test.status],
			}
			for name, want := range headers {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			// The same in XML, which has to say the same.
			h.Set("Accept", "text/xml")
			x := serve(&test.core, test.method, test.path, h, []byte(strings.TrimPrefix(test.body, "-")))
			var want httpError
			var inJSON struct{ ModelState map[string][]string }
			if json.Unmarshal([]byte(test.want), &struct{ Message, MessageDetail *string }{&want.Message, &want.MessageDetail}) != nil || json.Unmarshal([]byte(test.want), &inJSON) != nil {
				t.Fatal("the answer is not JSON")
			}
			got := readError(t, x.Body.String())
			if x.Code != test.status || got.Message != want.Message || got.MessageDetail != want.MessageDetail || len(got.ModelState.Fields) != len(inJSON.ModelState) {
				t.Errorf("in XML: %d %s", x.Code, x.Body)
			}
			for _, f := range got.ModelState.Fields {
				if want := strings.Join(inJSON.ModelState[f.XMLName.Local], " "); f.Text != want {
					t.Errorf("in XML %s: %q, want %q", f.XMLName.Local, f.Text, want)
				}
			}
		})
	}
}

// xmlError is an error as clients read it.
type xmlError struct {
	XMLName       xml.Name `xml:"Error"`
	Message       string
	MessageDetail string
	ModelState    struct {
		Fields []struct {
			XMLName xml.Name
			Text    string `xml:",chardata"`
		} `xml:",any"`
	}
}

func readError(t *testing.T, text string) (e xmlError) {
	t.Helper()
	if err := xml.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return e
}

// TestErrorInXML has the bytes of the contract's example.
func TestErrorInXML(t *testing.T) {
	w := serve(&core{t: t}, "POST", path, header("Content-Type", "application/xml"), []byte(strings.Replace(xmlSample, ">O<", "><", 1)))
	want := `<Error><Message>The request is invalid.</Message><ModelState><parameters.BasedOn>The BasedOn field is required.</parameters.BasedOn></ModelState></Error>`
	if got := w.Body.String(); got != want || w.Code != 400 || w.Header().Get("Content-Type") != "application/xml; charset=utf-8" {
		t.Errorf("%d %v: %s", w.Code, w.Header(), got)
	}
}

// TestMalformedXML has bodies that are not the XML that is expected.
func TestMalformedXML(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"another root", `<Params/>`, "one element CustomerBuyingReportParams without a namespace is expected"},
		{"a namespace", `<CustomerBuyingReportParams xmlns="urn:x"/>`, "one element CustomerBuyingReportParams without a namespace is expected"},
		{"two", `<CustomerBuyingReportParams/><CustomerBuyingReportParams/>`, "one element CustomerBuyingReportParams without a namespace is expected"},
		{"text before it", `x` + xmlSample, "there is text outside of the element"},
		{"text after it", xmlSample + `x`, "there is text outside of the element"},
		{"a document type", `<!DOCTYPE x [<!ENTITY e "e">]>` + xmlSample, "a document type is not allowed"},
		{"an unknown entity", `<CustomerBuyingReportParams><AccountNo>&e;</AccountNo></CustomerBuyingReportParams>`, "invalid character entity &e; on line 1"},
		{"a control character", "<CustomerBuyingReportParams>\n<AccountNo>&#1;</AccountNo></CustomerBuyingReportParams>", "illegal character code U+0001 on line 2"},
		{"cut off", xmlSample[:100], "unexpected EOF on line 2"},
		{"too deep", strings.Repeat("<CustomerBuyingReportParams>", 1) + strings.Repeat("<a>", 64), "nested deeper than 64 levels"},
		{"a comment", `<!-- nothing -->`, "there is no element"},
		{"JSON", jsonSample, "there is text outside of the element"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := serve(&core{t: t}, "POST", path, header("Content-Type", "text/xml"), []byte(test.body))
			e := readError(t, w.Body.String())
			if w.Code != 400 || len(e.ModelState.Fields) != 1 || e.ModelState.Fields[0].XMLName.Local != prefix || strings.Contains(w.Body.String(), test.want) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			// The caller is told where; the log is told what.
			_, err := read("text/xml", []byte(test.body))
			if want := "The request is invalid. The request body is malformed: " + test.want + "."; err == nil || err.Error() != want {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
	for _, member := range []string{"CustomerID", "MonthsBack"} {
		for _, value := range []string{"x", "1.0", "<y>1</y>", "99999999999999999999"} {
			w := serve(&core{t: t}, "POST", path, header("Content-Type", "text/xml"), []byte(`<CustomerBuyingReportParams><`+member+`>`+value+`</`+member+`></CustomerBuyingReportParams>`))
			if e := readError(t, w.Body.String()); w.Code != 400 || len(e.ModelState.Fields) != 1 || e.ModelState.Fields[0].XMLName.Local != "parameters."+member {
				t.Errorf("%s %s: %d %s", member, value, w.Code, w.Body)
			}
		}
	}
}

// TestNegotiation has the rules of the negotiation.
func TestNegotiation(t *testing.T) {
	const appJSON, textJSON, appXML, textXML = "application/json", "text/json", "application/xml", "text/xml"
	for _, test := range []struct {
		name, contentType, accept string
		script                    bool
		want                      string
	}{
		{"JSON without Accept", appJSON, "", false, appJSON},
		{"text/json without Accept", textJSON, "", false, textJSON},
		{"7: XML without Accept", appXML, "", false, appXML},
		{"7: text/xml without Accept, odd case", "Text/XML; charset=utf-8", "", false, textXML},
		{"7: XML, anything goes", appXML, "*/*", false, appJSON},
		{"a literal type", appJSON, "text/xml", false, textXML},
		{"odd case", appJSON, "Application/XML; Q=0.5", false, appXML},
		{"with a parameter", appJSON, "text/xml; charset=utf-8; q=0.5", false, textXML},
		{"any of text", appXML, "text/*", false, textJSON},
		{"any of application", textXML, "application/*", false, appJSON},
		{"higher q", appJSON, "application/json;q=0.5, application/xml", false, appXML},
		{"equal q: JSON first", appXML, "application/xml, application/json", false, appJSON},
		{"equal q: the order within a format", appXML, "text/json, application/json", false, textJSON},
		{"literal before range", appJSON, "text/xml, */*", false, textXML},
		{"a kind before everything", appXML, "*/*, text/*", false, textJSON},
		{"range with higher q", appXML, "text/xml;q=0.5, */*;q=0.9", false, appJSON},
		{"a browser", appJSON, "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false, appXML},
		{"nothing that suits, JSON", appJSON, "image/png", false, appJSON},
		{"nothing that suits, XML", appXML, "image/png, text/html", false, appXML},
		{"not wanted", appXML, "application/json;q=0", false, appXML},
		{"not wanted although JSON was sent", textJSON, "text/json;q=0", false, textJSON},
		{"nonsense", appXML, "*, x, text/xml;q=many", false, appXML},
		{"a script", appXML, "", true, appJSON},
		{"a script, anything goes", appXML, "*/*", true, appJSON},
		{"a script that wants XML", appJSON, "text/xml", true, textXML},
		{"a script that wants several", appXML, "text/xml, */*", true, textXML},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := header("Content-Type", test.contentType)
			if test.accept != "" {
				h.Set("Accept", test.accept)
			}
			if test.script {
				h.Set("X-Requested-With", "XMLHttpRequest")
			}
			body := jsonSample
			if strings.Contains(strings.ToLower(test.contentType), "xml") {
				body = xmlSample
			}
			w := serve(&core{t: t, items: []schemas.BuyingReportItem{lamp}}, "POST", path, h, []byte(body))
			want := lampJSON
			if strings.HasSuffix(test.want, "xml") {
				want = lampXML
			}
			if got := w.Header().Get("Content-Type"); got != test.want+"; charset=utf-8" {
				t.Errorf("%s, want %s", got, test.want)
			}
			if diff := cmp.Diff(want, w.Body.String()); diff != "" || w.Code != 200 {
				t.Errorf("status %d, answer (-want +got):\n%s", w.Code, diff)
			}
		})
	}
	// Of what is no report as well, and a type that nobody reads falls to JSON.
	w := serve(&core{t: t}, "POST", path, header("Content-Type", "text/plain"), []byte("x"))
	if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Error(got)
	}
}

// Clients break on an empty list.
func TestNothingBoughtHasNoBody(t *testing.T) {
	for _, accept := range []string{"application/json", "text/xml"} {
		w := serve(&core{t: t}, "POST", strings.ToLower(path)+"/", header("Content-Type", "text/json", "Accept", accept), []byte(jsonSample))
		if _, ok := w.Header()["Content-Type"]; ok || w.Code != 204 || w.Body.Len() != 0 {
			t.Errorf("%d %v %q", w.Code, w.Header(), w.Body)
		}
	}
}

func TestReport(t *testing.T) {
	items := []schemas.BuyingReportItem{
		{ID: 1, Code: "A", Description: "R&D <\"1\">\x00\x1f\t\n\r\u2028ä\ufffe]]>", CustPartNo: "C", Barcode: "1", EPOSBarcode: "2", Qty: 4, LastInvoiced: day("2024-02-29"), NextAvail: day("2026-12-01")},
		{ID: 2, Code: "B", Description: "bad \xff", Qty: 1},
	}
	c := &core{t: t, items: items}
	got := serve(c, "POST", path, header("Content-Type", "text/json"), []byte(jsonSample)).Body.String()
	want := `{"BuyingReportList":[` +
		`{"ID":1,"Code":"A","Description":"R&D <\"1\">\u0000\u001f\t\n\r\u2028ä` + "\ufffe" + `]]>","CustPartNo":"C","Barcode":"1","EPOSBarcode":"2","Qty":4,"LastInvoiced":"20240229","NextAvail":"20261201"},` +
		`{"ID":2,"Code":"B","Description":"bad \ufffd","CustPartNo":"","Barcode":"","EPOSBarcode":"","Qty":1,"LastInvoiced":"","NextAvail":""}]}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	got = serve(c, "POST", path, header("Content-Type", "text/json", "Accept", "text/xml"), []byte(jsonSample)).Body.String()
	want = `<BuyingReport xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
		"<BuyingReportItem><ID>1</ID><Code>A</Code><Description>R&amp;D &lt;\"1\"&gt;\ufffd\ufffd\t\n&#xD;\u2028ä\ufffd]]&gt;</Description><CustPartNo>C</CustPartNo><Barcode>1</Barcode><EPOSBarcode>2</EPOSBarcode><Qty>4</Qty><LastInvoiced>20240229</LastInvoiced><NextAvail>20261201</NextAvail></BuyingReportItem>" +
		"<BuyingReportItem><ID>2</ID><Code>B</Code><Description>bad \ufffd</Description><CustPartNo /><Barcode /><EPOSBarcode /><Qty>1</Qty></BuyingReportItem></BuyingReport>"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("XML (-want +got):\n%s", diff)
	}
}

// FuzzRead reads anything by each media type: it must not panic, and whatever comes of it can be written in both formats.
func FuzzRead(f *testing.F) {
	for _, body := range []string{
		jsonSample, xmlSample, "", "null", "[]", "{apiKey:'K.1',/* c */CustomerID:'77','BasedOn':'o',MonthsBack:6,}// end\n",
		`{"CustomerID":[],"MonthsBack":1e3,"WeeksUntilAvailable":true}`, string(utf16Of(xmlSample, true, false)), string(utf16Of(jsonSample, false, true)),
		`<?xml version="1.0" encoding="utf-16"?><CustomerBuyingReportParams xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><AccountNo i:nil="1"/><BasedOn><![CDATA[I]]></BasedOn></CustomerBuyingReportParams>`,
	} {
		for i := range 3 {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		p, err := read([]string{"application/json", "text/xml", "text/json; charset=utf-16"}[n%3], body)
		if err == nil {
			var q schemas.BuyingReportParams
			if q, err = p.question("demo", time.Now()); err == nil {
				if (q.CustomerID > 0) == (q.AccountNo != "") || q.MonthsBack < 1 || q.WeeksUntilAvailable < 0 || q.BasedOn != "O" && q.BasedOn != "I" {
					t.Errorf("%+v", q)
				}
				item := schemas.BuyingReportItem{Description: p.accountNo, Code: p.key}
				writable(t, formatReport([]schemas.BuyingReportItem{item}, jsonFormat), formatReport([]schemas.BuyingReportItem{item}, xmlFormat))
				return
			}
		}
		var e *httpError
		if !errors.As(err, &e) || e.status != 400 {
			t.Fatal(err)
		}
		writable(t, formatError(e, jsonFormat), formatError(e, xmlFormat))
	})
}

func writable(t *testing.T, inJSON, inXML []byte) {
	t.Helper()
	if !json.Valid(inJSON) {
		t.Errorf("not JSON: %s", inJSON)
	}
	d := xml.NewDecoder(bytes.NewReader(inXML))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("not XML: %v: %s", err, inXML)
		}
	}
}

// BenchmarkFormat writes reports of 1,000 products.
func BenchmarkFormat(b *testing.B) {
	items := make([]schemas.BuyingReportItem, 1000)
	for i := range items {
		items[i] = lamp
		items[i].Code = fmt.Sprint("P-", i)
	}
	for name, f := range map[string]format{"JSON": jsonFormat, "XML": xmlFormat} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.SetBytes(int64(len(formatReport(items, f))))
			}
		})
	}
}
