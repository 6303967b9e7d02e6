package avon

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const successXML = `<?xml version="1.0" encoding="utf-8"?><FinancialTransactionsBatchCreateResponse xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns="http://schemas.datacontract.org/2004/07/NAV.ServiceModel">` +
	`<ResponseStatus xmlns:d2p1="http://schemas.servicestack.net/types" i:nil="true" /></FinancialTransactionsBatchCreateResponse>`

// successes are the answers to what was processed, by Content-Type.
var successes = map[string]string{
	"application/json; charset=utf-8": "{}",
	"text/javascript; charset=utf-8":  "f({})",
	"application/jsv":                 "{}",
	"text/jsv":                        "{}",
	"application/xml":                 successXML,
	"text/xml":                        successXML,
	"text/csv":                        "",
}

// TestNegotiation: which form the answer has.
func TestNegotiation(t *testing.T) {
	const predefined = "/xml/reply/FinancialTransactionsBatchCreate"
	for _, c := range []struct{ path, contentType, accept, want string }{
		{Path, "application/json", "", "application/json; charset=utf-8"},
		{Path, "text/csv", "", "application/json; charset=utf-8"},
		{Path, "application/json", "text/jsv", "text/jsv"},
		{Path, "application/json", "application/jsv", "application/jsv"},
		{Path, "application/json", "text/xml", "text/xml"},
		{Path, "application/json", "application/xml", "application/xml"},
		{Path, "application/json", "TEXT/XML; charset=utf-8", "text/xml"},
		{Path, "application/json", "text/csv", "text/csv"},
		{Path, "application/json", "text/json", "application/json; charset=utf-8"},
		{Path, "application/xml", "text/html", "application/json; charset=utf-8"},
		{Path, "text/jsv", "*/*", "text/jsv"},
		{Path, "text/csv", "*/*", "text/csv"},
		{Path, "application/x-www-form-urlencoded", "*/*", "application/json; charset=utf-8"},
		{Path, "", "*/*", "application/json; charset=utf-8"},
		{Path, "application/json", "image/png", "application/json; charset=utf-8"},
		{Path, "application/json", "image/png, text/xml", "text/xml"},
		{Path, "text/csv", "application/xml, application/json", "application/json; charset=utf-8"},
		{Path, "text/csv", "application/jsv, application/xml", "application/xml"},
		{Path, "application/xml", "application/json, application/xml", "application/xml"},
		{Path, "text/xml", "application/json, application/xml", "application/xml"},
		{Path, "application/json", "application/json;q=0.5, application/xml;q=0.9", "application/xml"},
		{Path, "application/json", "application/json;q=0.5, text/csv", "text/csv"},
		{Path, "application/json", "application/xml;q=0, application/jsv;q=0.1", "application/jsv"},
		{Path, "application/json", "application/xml;q=0", "application/json; charset=utf-8"},
		{Path, "application/jsv", "text/csv, */*", "application/jsv"},
		{Path, "application/jsv", "text/csv, */*;q=0.1", "text/csv"},
		{Path, "application/xml", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json; charset=utf-8"},
		{Path + ".json?format=xml", "application/json", "text/csv", "application/json; charset=utf-8"},
		{Path + "?format=xml", "application/json", "text/csv", "application/xml"},
		{Path + ".xml?callback=f", "application/json", "", "application/xml"},
		{Path + ".Xml?format=csv", "application/json", "", "application/xml"},
		{Path + "?format=XML.x", "application/json", "", "application/xml"},
		{Path + "?format=Jsv", "application/json", "", "application/jsv"},
		{Path + "?format=csv", "application/json", "", "text/csv"},
		{Path + "?format=html", "application/json", "text/xml", "application/json; charset=utf-8"},
		{Path + "?format=png", "application/json", "text/xml", "text/xml"},
		{Path + "?callback=f&format=xml", "application/json", "text/xml", "text/javascript; charset=utf-8"},
		{predefined, "application/json", "text/csv", "application/xml"},
		{predefined + "?format=jsv", "application/json", "", "application/jsv"},
		{"/api/FinancialTransactionsBatchCreate", "application/json", "", "application/json; charset=utf-8"},
		{"/api/FinancialTransactionsBatchCreate", "application/json", "text/xml", "text/xml"},
		{"/api/FinancialTransactionsBatchCreate.XML?format=jsv", "application/json", "text/csv", "application/jsv"},
		{"/api/FinancialTransactionsBatchCreate.XML", "application/json", "text/csv", "application/xml"},
	} {
		header := http.Header{"Content-Type": {c.contentType}}
		if c.accept != "" {
			header["Accept"] = []string{c.accept}
		}
		w := serve(&core{t: t}, "POST", c.path, header, "")
		if got := w.Header().Get("Content-Type"); w.Code != 200 || got != c.want {
			t.Errorf("POST %s of %q, Accept %q: %d %q, want %q", c.path, c.contentType, c.accept, w.Code, got, c.want)
		}
		if w.Header().Get("Vary") != "Accept" || (c.want == "text/csv") != (w.Header().Get("Content-Disposition") == "attachment; filename=FinancialTransactionsBatchCreate.csv") {
			t.Errorf("POST %s of %q, Accept %q: headers %v", c.path, c.contentType, c.accept, w.Header())
		}
		if got, want := w.Body.String(), successes[c.want]; got != want {
			t.Errorf("POST %s of %q, Accept %q: %s, want %s", c.path, c.contentType, c.accept, got, want)
		}
	}
}

func TestCallbacks(t *testing.T) {
	for s, want := range map[string]bool{
		"f": true, "a.b.c": true, "$": true, "_1": true, "jQuery1_2": true, "": false, "1": false, "a.": false, ".a": false, "a..b": false, "a b": false,
		"alert(1)": false, "a;b": false, "é": false, "a[0]": false, strings.Repeat("a", 101): false,
	} {
		if isFunction(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

// TestRoutes: every path of the operation reads the body, and answers for what is none of it.
func TestRoutes(t *testing.T) {
	const body = `{"financialTransactions":[{"state":"ON"}]}`
	for _, c := range []struct {
		method, path string
		status       int
		stored       bool
	}{
		{"POST", Path, 200, true},
		{"POST", Path + "/", 200, true},
		{"POST", Path + ".json", 200, true},
		{"POST", Path + ".csv", 200, true},
		{"POST", Path + ".JSON", 200, true},
		{"POST", "/Financial-Transaction-Batches.Xml", 200, true},
		{"POST", strings.ToUpper(Path), 200, true},
		{"POST", "/json/reply/FinancialTransactionsBatchCreate", 200, true},
		{"POST", "/json/reply/FinancialTransactionsBatchCreate/", 200, true},
		{"POST", "/xml/oneway/FinancialTransactionsBatchCreate/", 204, true},
		{"POST", "/api/FinancialTransactionsBatchCreate.json/", 200, true},
		{"POST", "/Json/REPLY/financialtransactionsbatchcreate", 200, true},
		{"POST", "/JSV/Reply/FinancialTransactionsBatchCreate", 200, true},
		{"POST", "/csv/oneway/FinancialTransactionsBatchCreate", 204, true},
		{"POST", "/xml/OneWay/FinancialTransactionsBatchCreate", 204, true},
		{"POST", "/api/FinancialTransactionsBatchCreate", 200, true},
		{"POST", "/api/FINANCIALTRANSACTIONSBATCHCREATE.jsv", 200, true},
		{"GET", Path, 405, false},
		{"HEAD", Path, 405, false},
		{"PUT", Path + ".xml", 405, false},
		{"OPTIONS", "/json/reply/FinancialTransactionsBatchCreate", 405, false},
		{"GET", "/api/FinancialTransactionsBatchCreate", 405, false},
		{"POST", Path + "/x", 404, false},
		{"POST", "/json/both/FinancialTransactionsBatchCreate", 404, false},
		{"POST", "/json/reply/FinancialTransactionsCreate", 404, false},
		{"GET", "/xml/reply/Other", 404, false},
		{"POST", "/api/FinancialTransactionsBatchCreate.png", 404, false},
		{"POST", "/api/Other", 404, false},
		{"POST", Path + ".png", 404, false},
		{"GET", Path + ".JSV", 405, false},
		{"GET", Path + ".yaml", 404, false},
		{"POST", Path + ".json.xml", 404, false},
		{"POST", "/json/reply", 404, false},
		{"POST", "/json/reply/FinancialTransactionsBatchCreate/x", 404, false},
		{"POST", "/api/FinancialTransactionsBatchCreate/x", 404, false},
		{"POST", "/api/", 404, false},
		{"POST", "/financial-transactions", 404, false},
	} {
		core := &core{t: t}
		w := serve(core, c.method, c.path, http.Header{"Content-Type": {"application/json"}}, body)
		if w.Code != c.status || (len(core.got) == 1) != c.stored {
			t.Errorf("%s %s: %d, %d batches; want %d, %v", c.method, c.path, w.Code, len(core.got), c.status, c.stored)
		}
		if (w.Header().Get("Allow") == "POST") != (c.status == 405) || w.Header().Get("Location") != "" || w.Code == 204 && w.Body.Len() > 0 {
			t.Errorf("%s %s: %v %s", c.method, c.path, w.Header(), w.Body)
		}
		if c.status >= 400 && c.path != "/financial-transactions" && !strings.Contains(w.Body.String(), "rrorCode") {
			t.Errorf("%s %s: %s", c.method, c.path, w.Body)
		}
		if strings.HasPrefix(c.path, "/xml/") && c.status >= 400 && !strings.Contains(w.Body.String(), "<d2p1:ErrorCode>NotFound</d2p1:ErrorCode>") {
			t.Errorf("%s %s: %s", c.method, c.path, w.Body)
		}
	}
}

// TestArraysOfRequests: several requests in one body, and where they stop.
func TestArraysOfRequests(t *testing.T) {
	const (
		path   = "/json/reply/FinancialTransactionsBatchCreate%5B%5D"
		failed = `{"responseStatus":{"errorCode":"SerializationException","message":"Unable to bind to request 'FinancialTransactionsBatchCreate'",` +
			`"errors":[{"errorCode":"SerializationException","fieldName":"FinancialTransactions[1].TaxRate","message":"'x' is an Invalid value for 'TaxRate'"}],"meta":{"AutoBatchIndex":"%"}}}`
		good = `{"financialTransactions":[{"state":"A"},{"state":"B"}]}`
		bad  = `{"financialTransactions":[{"state":"C"},{"taxRate":"x"}]}`
	)
	for _, c := range []struct {
		path, contentType, body, stored string
		status                          int
		completed, want                 string
	}{
		{path, "", "[]", "", 200, "0", "[]"},
		{path, "", "[{},null,{}]", "", 200, "3", "[{},{},{}]"},
		{path, "", "[" + good + "," + good + "]", "AABB", 200, "2", "[{},{}]"},
		{path, "", "[" + good + "," + bad + "," + good + "]", "AB", 400, "1", strings.Replace(failed, "%", "1", 1)},
		{path, "", "[{}," + good + "," + bad + "," + bad + "]", "AB", 400, "2", strings.Replace(failed, "%", "2", 1)},
		{path, "", "[" + bad + "," + good + "]", "", 400, "0", strings.Replace(failed, "%", "0", 1)},
		{path, "", "[" + good + "," + bad + "," + good, "", 400, "", "<any>"},
		{"/api/FinancialTransactionsBatchCreate[]", "text/jsv", "[{financialTransactions:[{state:A}]},{}]", "A", 200, "2", "[{},{}]"},
		{"/api/FinancialTransactionsBatchCreate[].jsv", "text/jsv", "[{financialTransactions:[{state:A}]},{}]", "A", 200, "2", "[{},{}]"},
		{"/json/oneway/FinancialTransactionsBatchCreate[]", "", "[" + good + "]", "AB", 204, "1", ""},
		{"/csv/reply/FinancialTransactionsBatchCreate[]", "application/json", "[" + good + "]", "AB", 200, "1", ""},
		{"/xml/reply/FinancialTransactionsBatchCreate[]", "", `<ArrayOfFinancialTransactionsBatchCreate xmlns="` + contractNS + `"><FinancialTransactionsBatchCreate><FinancialTransactions><FinancialTransactionsBatchCreateViewModel><State>A</State></FinancialTransactionsBatchCreateViewModel></FinancialTransactions></FinancialTransactionsBatchCreate><FinancialTransactionsBatchCreate/></ArrayOfFinancialTransactionsBatchCreate>`,
			"A", 200, "2", `<?xml version="1.0" encoding="utf-8"?><ArrayOfFinancialTransactionsBatchCreateResponse xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns="http://schemas.datacontract.org/2004/07/NAV.ServiceModel">` +
				strings.Repeat(`<FinancialTransactionsBatchCreateResponse><ResponseStatus xmlns:d3p1="http://schemas.servicestack.net/types" i:nil="true" /></FinancialTransactionsBatchCreateResponse>`, 2) + `</ArrayOfFinancialTransactionsBatchCreateResponse>`},
	} {
		core := &core{t: t}
		w := serve(core, "POST", c.path, http.Header{"Content-Type": {c.contentType}}, c.body)
		if w.Code != c.status || w.Header().Get("X-AutoBatch-Completed") != c.completed || len(core.got) > 1 {
			t.Errorf("%s: %d, completed %q, %d batches; want %d, %q", c.body, w.Code, w.Header().Get("X-AutoBatch-Completed"), len(core.got), c.status, c.completed)
		}
		if got := w.Body.String(); got != c.want && c.want != "<any>" {
			t.Errorf("%s:\n%s", c.body, cmp.Diff(c.want, got))
		}
		stored := ""
		for _, tr := range core.transactions() {
			stored += *tr.State
		}
		if c.stored == "AABB" {
			c.stored = "ABAB"
		}
		if stored != c.stored {
			t.Errorf("%s: stored %q, want %q", c.body, stored, c.stored)
		}
	}
}

// TestErrorsInEachFormat: a ResponseStatus as each format writes it.
func TestErrorsInEachFormat(t *testing.T) {
	const body = `[{},{"financialTransactions":[{"taxRate":"1<,\"2"}]}]`
	for format, want := range map[string]string{
		"json": `{"responseStatus":{"errorCode":"SerializationException","message":"Unable to bind to request 'FinancialTransactionsBatchCreate'","errors":[{"errorCode":"SerializationException","fieldName":"FinancialTransactions[0].TaxRate","message":"'1<,\"2' is an Invalid value for 'TaxRate'"}],"meta":{"AutoBatchIndex":"1"}}}`,
		"jsv":  `{responseStatus:{errorCode:SerializationException,message:Unable to bind to request 'FinancialTransactionsBatchCreate',errors:[{errorCode:SerializationException,fieldName:"FinancialTransactions[0].TaxRate",message:"'1<,""2' is an Invalid value for 'TaxRate'"}],meta:{AutoBatchIndex:1}}}`,
		"xml": `<?xml version="1.0" encoding="utf-8"?><FinancialTransactionsBatchCreateResponse xmlns:i="http://www.w3.org/2001/XMLSchema-instance" xmlns="http://schemas.datacontract.org/2004/07/NAV.ServiceModel">` +
			`<ResponseStatus xmlns:d2p1="http://schemas.servicestack.net/types"><d2p1:ErrorCode>SerializationException</d2p1:ErrorCode><d2p1:Message>Unable to bind to request 'FinancialTransactionsBatchCreate'</d2p1:Message><d2p1:StackTrace i:nil="true" />` +
			`<d2p1:Errors><d2p1:ResponseError><d2p1:ErrorCode>SerializationException</d2p1:ErrorCode><d2p1:FieldName>FinancialTransactions[0].TaxRate</d2p1:FieldName><d2p1:Message>'1&lt;,"2' is an Invalid value for 'TaxRate'</d2p1:Message>` +
			`<d2p1:Meta xmlns:d5p1="http://schemas.microsoft.com/2003/10/Serialization/Arrays" i:nil="true" /></d2p1:ResponseError></d2p1:Errors>` +
			`<d2p1:Meta xmlns:d3p1="http://schemas.microsoft.com/2003/10/Serialization/Arrays"><d3p1:KeyValueOfstringstring><d3p1:Key>AutoBatchIndex</d3p1:Key><d3p1:Value>1</d3p1:Value></d3p1:KeyValueOfstringstring></d2p1:Meta></ResponseStatus></FinancialTransactionsBatchCreateResponse>`,
		"csv": "errorCode,message,stackTrace,errors,meta\r\n" + `SerializationException,Unable to bind to request 'FinancialTransactionsBatchCreate',,"[{errorCode:SerializationException,fieldName:""FinancialTransactions[0].TaxRate"",message:""'1<,""""2' is an Invalid value for 'TaxRate'""}]",{AutoBatchIndex:1}` + "\r\n",
	} {
		w := serve(&core{t: t}, "POST", "/"+format+"/reply/FinancialTransactionsBatchCreate[]", http.Header{"Content-Type": {"application/json"}}, body)
		if diff := cmp.Diff(want, w.Body.String()); w.Code != 400 || diff != "" {
			t.Errorf("%s: %d (-want +got):\n%s", format, w.Code, diff)
		}
	}
	// What XML has no characters for is replaced.
	w := serve(&core{t: t}, "POST", Path+".xml", http.Header{"Content-Type": {"application/json"}}, `{"financialTransactions":[{"taxRate":"\u0001\ufffe\r\t<&>"}]}`)
	if want := "'\ufffd\ufffd&#xD;\t&lt;&amp;&gt;' is an Invalid value"; w.Code != 400 || !strings.Contains(w.Body.String(), want) {
		t.Errorf("%d %s, want %s", w.Code, w.Body, want)
	}
	w = serve(&core{t: t}, "POST", Path+"?callback=a.b", http.Header{"Content-Type": {"application/json"}}, `{"financialTransactions":1}`)
	if got := w.Body.String(); w.Code != 400 || !strings.HasPrefix(got, `a.b({"responseStatus":`) || !strings.HasSuffix(got, "})") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %v %s", w.Code, w.Header(), got)
	}
}

// TestOthersPathsStayTheirs: what is not the operation's is answered as if there were no such adapter.
func TestOthersPathsStayTheirs(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /docs", func(http.ResponseWriter, *http.Request) {})
	New(&core{t: t}).Register(mux)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{{"GET", "/docs", 200, ""}, {"POST", "/docs", 405, "GET, HEAD"}, {"POST", "/doc", 404, ""}, {"GET", "/api", 404, ""}, {"GET", "/", 404, ""}} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || w.Header().Get("Allow") != c.allow || strings.Contains(w.Body.String(), "responseStatus") {
			t.Errorf("%s %s: %d %v %s", c.method, c.path, w.Code, w.Header(), w.Body)
		}
	}
}
