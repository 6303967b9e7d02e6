package avon

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"math/big"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/ingest/avon/jsv"
	"github.com/counterfoil/counterfoil/schemas"
)

// Writers make a request of transactions as a client of ServiceStack does. spell changes the case of the members' names.

// texts are the members of a transaction that are there, as the clients write them.
func texts(tr *schemas.Transaction) map[string]string {
	m := map[string]string{}
	for i := range members {
		switch p := members[i].at(tr).(type) {
		case **string:
			if *p != nil {
				m[members[i].name] = **p
			}
		case **schemas.Decimal:
			if *p != nil {
				m[members[i].name] = (*p).String()
			}
		default:
			if tr.TransactionTime != nil {
				m[members[i].name] = tr.TransactionTime.Format("2006-01-02T15:04:05.9999999Z07:00")
			}
		}
	}
	return m
}

func isText(name string) bool {
	_, ok := members[placeOf(name)].at(&schemas.Transaction{}).(**string)
	return ok
}

// small is the spelling of JSON, JSV and CSV.
func small(name string) string { return strings.ToLower(name[:1]) + name[1:] }

func inJSON(all []*schemas.Transaction, spell func(string) string, quoted bool) string {
	list := []map[string]any{}
	for _, tr := range all {
		o := map[string]any{}
		for name, s := range texts(tr) {
			if quoted || isText(name) || name == "TransactionTime" {
				o[spell(name)] = s
			} else {
				o[spell(name)] = json.Number(s)
			}
		}
		list = append(list, o)
	}
	b, err := json.Marshal(map[string]any{spell("FinancialTransactions"): list})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// jsvList writes the list; white stands around everything that a formatter may part.
func jsvList(all []*schemas.Transaction, spell func(string) string, white string) string {
	b := []byte("[" + white)
	for i, tr := range all {
		if i > 0 {
			b = append(b, ","+white...)
		}
		b = append(b, "{"+white...)
		m := texts(tr)
		first := true
		for _, member := range members {
			s, ok := m[member.name]
			if !ok {
				continue
			}
			if !first {
				b = append(b, ","+white...)
			}
			first = false
			b = append(b, spell(member.name)+":"+white...)
			if isText(member.name) {
				b = jsv.AppendText(b, s)
			} else {
				b = append(b, s...) // colons of times do not force quotes
			}
			b = append(b, white...)
		}
		b = append(b, "}"+white...)
	}
	return string(append(b, ']'))
}

func inJSV(all []*schemas.Transaction, spell func(string) string, white string) string {
	return "{" + white + spell("FinancialTransactions") + ":" + white + jsvList(all, spell, white) + white + "}"
}

func inXML(all []*schemas.Transaction, namespace bool, shuffle func(names []string)) string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><FinancialTransactionsBatchCreate xmlns:i="` + instanceNS + `"`)
	if namespace {
		b.WriteString(` xmlns="` + contractNS + `"`)
	}
	b.WriteString("><FinancialTransactions>")
	for _, tr := range all {
		b.WriteString("<FinancialTransactionsBatchCreateViewModel>\n")
		m := texts(tr)
		var names []string
		for _, member := range members {
			names = append(names, member.name)
		}
		slices.Sort(names)
		shuffle(names)
		for _, name := range names {
			s, ok := m[name]
			if !ok {
				b.WriteString("<" + name + ` i:nil="true" />`)
				continue
			}
			b.WriteString("<" + name + ">")
			_ = xml.EscapeText(&b, []byte(s))
			b.WriteString("</" + name + ">")
		}
		b.WriteString("</FinancialTransactionsBatchCreateViewModel>")
	}
	b.WriteString("</FinancialTransactions></FinancialTransactionsBatchCreate>")
	return b.String()
}

func inCSV(all []*schemas.Transaction, spell func(string) string) string {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	var line []string
	for _, member := range members {
		line = append(line, spell(member.name))
	}
	_ = w.Write(append(line, "unknown"))
	for _, tr := range all {
		m := texts(tr)
		line = line[:0]
		for _, member := range members {
			line = append(line, m[member.name])
		}
		_ = w.Write(append(line, "x"))
	}
	w.Flush()
	return b.String()
}

func inParts(list string) (body, contentType string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.WriteField("other", "x")
	_ = w.WriteField("financialTransactions", list)
	_ = w.Close()
	return b.String(), w.FormDataContentType()
}

// some makes transactions of everything that is hard: all digits, all separators of all formats, other alphabets.
func some(r *rand.Rand) []*schemas.Transaction {
	alphabet := []rune("ab1\":,{}[]\n\t '\\<>&;+%=\u00e9\u00a0-😀/]")
	text := func() string {
		s := make([]rune, 1+r.IntN(6))
		for i := range s {
			s[i] = alphabet[r.IntN(len(alphabet))]
		}
		return "x" + string(s) + "x" // no white space at the ends, which CSV and JSV do not keep alike; never empty, which CSV cannot be
	}
	all := make([]*schemas.Transaction, 1+r.IntN(4))
	for i := range all {
		tr := &schemas.Transaction{}
		for j := range members {
			if r.IntN(2) == 0 {
				continue
			}
			switch p := members[j].at(tr).(type) {
			case **string:
				s := text()
				*p = &s
			case **schemas.Decimal:
				mantissa := new(big.Int).Lsh(big.NewInt(int64(r.Uint64()>>1)), uint(r.IntN(33)))
				d := decimal.NewFromBigInt(mantissa.Rsh(mantissa, uint(r.IntN(60))), -int32(r.IntN(29)))
				if r.IntN(2) == 0 {
					d = d.Neg()
				}
				*p = &d
			default:
				tm := time.Unix(r.Int64N(9e9)-2e9, r.Int64N(1e7)*100).UTC()
				tr.TransactionTime = &tm
			}
		}
		all[i] = tr
	}
	return all
}

// TestFormatsSayTheSame writes transactions in every format, in the ways of ServiceStack's clients and of its pages, and reads the same from
// each.
func TestFormatsSayTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	same := func(s string) string { return s }
	for range 300 {
		want := some(r)
		list := jsvList(want, small, "")
		parts, partsType := inParts(list)
		for _, c := range []struct{ name, contentType, path, body string }{
			{"JSON", "application/json", Path, inJSON(want, small, false)},
			{"JSON, capitals", "text/json; charset=utf-8", Path, inJSON(want, strings.ToUpper, false)},
			{"JSON, everything quoted", "Application/JSON", Path, inJSON(want, same, true)},
			{"JSV", "text/jsv", Path, inJSV(want, small, "")},
			{"JSV, Pascal's case", "application/jsv", Path, inJSV(want, same, "")},
			{"JSV as the page prints it", "text/jsv", Path, inJSV(want, small, "\n\t ")},
			{"JSON sent as JSV", "text/jsv", Path, inJSV(want, func(s string) string { return `"` + s + `"` }, " ")},
			{"XML", "application/xml", Path, inXML(want, true, func([]string) {})},
			{"XML in another order, without namespace", "text/xml", Path, inXML(want, false, func(names []string) {
				r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			})},
			{"CSV", "text/csv", Path, inCSV(want, small)},
			{"CSV, BOM and capitals", "text/csv", Path, "\ufeff" + inCSV(want, strings.ToUpper)},
			{"form", "application/x-www-form-urlencoded", Path, "other=1&FINANCIALTRANSACTIONS=" + url.QueryEscape(list) + "&empty="},
			{"form in parts", partsType, Path, parts},
			{"URL", "", Path + "?financialTransactions=" + url.QueryEscape(list), ""},
			{"pre-defined route", "", "/jsv/reply/FinancialTransactionsBatchCreate", inJSV(want, small, "")},
			{"pre-defined route, an unknown type", "text/plain", "/csv/reply/FinancialTransactionsBatchCreate", inCSV(want, small)},
			{"pre-defined route of JSON", "", "/api/FinancialTransactionsBatchCreate", inJSON(want, small, false)},
			{"pre-defined route that names a format", "", "/api/FinancialTransactionsBatchCreate.csv", inCSV(want, small)},
		} {
			core := &core{t: t}
			w := serve(core, "POST", c.path, http.Header{"Content-Type": {c.contentType}}, c.body)
			if w.Code != 200 {
				t.Fatalf("%s: %d %s\n%s", c.name, w.Code, w.Body, c.body)
			}
			if diff := cmp.Diff(print(want), print(core.transactions())); diff != "" {
				t.Fatalf("%s (-want +got):\n%s\n%s", c.name, diff, c.body)
			}
		}
	}
}

// TestReads: what is taken, and what becomes of it.
func TestReads(t *testing.T) {
	for _, c := range []struct{ name, contentType, body, want string }{
		{"unknown names", "application/json", `{"x":{"financialTransactions":[1]},"financialTransactions":[{"y":[{}],"state":"ON"}]}`, "{ State=\"ON\" }\n"},
		{"spellings", "application/json", `{"FINANCIALTRANSACTIONS":[{"transactionBidsCode":"a"},{"TransactionBIDSCode":"b"},{"TRANSACTIONBIDSCODE":"c"}]}`,
			"{ TransactionBIDSCode=\"a\" }\n{ TransactionBIDSCode=\"b\" }\n{ TransactionBIDSCode=\"c\" }\n"},
		{"null and empty", "application/json", `{"financialTransactions":[{"taxRate":null,"freeAmount":"","bonusAmount":" ","state":null,"taxArea":"","transactionTime":""}]}`, "{ TaxArea=\"\" }\n"},
		{"numbers for texts", "application/json", `{"financialTransactions":[{"transactionCode":7.0,"state":true}]}`, "{ TransactionCode=\"7.0\" State=\"true\" }\n"},
		{"exact", "application/json", `{"financialTransactions":[{"taxRate":0.0000000000000000000000000001,"freeAmount":"79,228,162,514,264,337,593,543,950,335","bonusAmount":1E+3,"beeNumberCustomer":12345.0}]}`,
			"{ BeeNumberCustomer=12345 FreeAmount=79228162514264337593543950335 BonusAmount=1000 TaxRate=0.0000000000000000000000000001 }\n"},
		{"times", "application/json", `{"financialTransactions":[{"transactionTime":"\/Date(1425291300000-0500)\/"},{"transactionTime":20150302},{"transactionTime":"\/Date(-62135596800000)\/"},{"transactionTime":"0001-01-01T00:00:00.0000000"}]}`,
			"{ TransactionTime=2015-03-02T10:15:00Z }\n{ TransactionTime=2015-03-02T00:00:00Z }\n{ }\n{ }\n"},
		{"numbers without a digit before the point", "application/json", `{"financialTransactions":[{"taxRate":.5,"freeAmount":-.5,"bonusAmount":".5"}]}`, "{ FreeAmount=-0.5 BonusAmount=0.5 TaxRate=0.5 }\n"},
		{"CSV: line ends, and those in quotes as they are", "text/csv", "campaign,state\r\n\"a\r\nb\nc\",ON\r\n\r\n\"\r\n\",\r\n", "{ Campaign=\"a\\r\\nb\\nc\" State=\"ON\" }\n{ Campaign=\"\\r\\n\" }\n"},
		{"CSV: an empty field is no blank line, if in quotes", "text/csv", "campaign\n\n\" \"\n  \nC1\n\"\"\n", "{ Campaign=\" \" }\n{ Campaign=\"C1\" }\n{ }\n"},
		{"null in the list", "application/json", `{"financialTransactions":[null]}`, "{ }\n"},
		{"no list", "application/json", `{}`, ""},
		{"members beside the list are unknown", "application/json", `{"beeNumberCustomer":1,"state":["x"]}`, ""},
		{"XML: members beside the list are unknown", "text/xml", `<FinancialTransactionsBatchCreate><State>ON</State></FinancialTransactionsBatchCreate>`, ""},
		{"form: flat members bind to nothing", "application/x-www-form-urlencoded", "BeeNumberCustomer=1&State=ON", ""},
		{"a null list", "application/json", `{"financialTransactions":null}`, ""},
		{"an empty list", "application/json", `{"financialTransactions":[]}`, ""},
		{"no body", "application/json", "", ""},
		{"no body, no type", "", "", ""},
		{"a body of white space", "application/xml", " \r\n", ""},
		{"JSV: bare words, empty and null", "text/jsv", `{financialTransactions:[{state:null,taxRate:null,taxArea:"",campaign:,transactionTime:null,transactionCode:"null"}]}`,
			"{ TransactionCode=\"null\" State=\"null\" TaxArea=\"\" }\n"},
		{"JSV: times have colons", "text/jsv", `{financialTransactions:[{transactionTime:2015-03-02T10:15:00Z,campaign:a:b}]}`, "{ TransactionTime=2015-03-02T10:15:00Z Campaign=\"a:b\" }\n"},
		{"JSV: commas, brackets and lines in quotes", "text/jsv", "{financialTransactions:[{campaign:\"C01, spring\",orderNumber:\"he said \"\"ok\"\"\",state:\"{[\n]}\",taxRate:\"1,234.50\"}]}",
			"{ Campaign=\"C01, spring\" OrderNumber=\"he said \\\"ok\\\"\" State=\"{[\\n]}\" TaxRate=1234.5 }\n"},
		{"JSV: nulls in the list", "text/jsv", `{financialTransactions:[{},,null,{},]}`, "{ }\n{ }\n{ }\n{ }\n"},
		{"JSV: a null list", "text/jsv", `{financialTransactions:}`, ""},
		{"JSV: a null list in a word", "text/jsv", `{financialTransactions:null}`, ""},
		{"JSV: type information", "text/jsv", `{__type:"NAV.X, NAV",financialTransactions:[{__type:Y,state:ON}]}`, "{ State=\"ON\" }\n"},
		{"XML: nil", "text/xml", `<FinancialTransactionsBatchCreate xmlns:i="` + instanceNS + `"><FinancialTransactions><FinancialTransactionsBatchCreateViewModel><TaxRate i:nil="true"/><State i:nil="1"/><Campaign i:nil="false">a</Campaign></FinancialTransactionsBatchCreateViewModel><FinancialTransactionsBatchCreateViewModel i:nil="true"/></FinancialTransactions></FinancialTransactionsBatchCreate>`,
			"{ Campaign=\"a\" }\n{ }\n"},
		{"XML: a nil list", "text/xml", `<FinancialTransactionsBatchCreate xmlns:i="` + instanceNS + `"><FinancialTransactions i:nil="true"/></FinancialTransactionsBatchCreate>`, ""},
		{"XML: a nil request", "text/xml", `<FinancialTransactionsBatchCreate xmlns:i="` + instanceNS + `" i:nil="true"/>`, ""},
		{"XML: entities, CDATA, comments, white space", "text/xml", "<!-- c --><?pi x?><FinancialTransactionsBatchCreate>\n<Version>1</Version><FinancialTransactions>\n<FinancialTransactionsBatchCreateViewModel> <State> a&amp;<!-- c --><![CDATA[<b>]]>&#x43; </State><TaxRate>\n+007.50 </TaxRate><x:Other xmlns:x=\"u\"><State>b</State></x:Other></FinancialTransactionsBatchCreateViewModel></FinancialTransactions></FinancialTransactionsBatchCreate>\n",
			"{ State=\" a&<b>C \" TaxRate=7.5 }\n"},
		{"XML: an empty text", "text/xml", `<FinancialTransactionsBatchCreate><FinancialTransactions><FinancialTransactionsBatchCreateViewModel><State/></FinancialTransactionsBatchCreateViewModel></FinancialTransactions></FinancialTransactionsBatchCreate>`, "{ State=\"\" }\n"},
		{"XML: a prefix", "text/xml", `<n:FinancialTransactionsBatchCreate xmlns:n="` + contractNS + `"><n:FinancialTransactions><n:FinancialTransactionsBatchCreateViewModel><n:State>ON</n:State></n:FinancialTransactionsBatchCreateViewModel></n:FinancialTransactions></n:FinancialTransactionsBatchCreate>`, "{ State=\"ON\" }\n"},
		{"XML: case", "text/xml", `<FinancialTransactionsBatchCreate><financialTransactions><FinancialTransactionsBatchCreateViewModel><state>ON</state></FinancialTransactionsBatchCreateViewModel></financialTransactions></FinancialTransactionsBatchCreate>`, "{ State=\"ON\" }\n"},
		{"CSV: BOM, case, blanks, quotes, blank lines, short rows", "text/csv", "\ufeff\"STATE\", taxrate ,Campaign,x\r\n\r\nON, 1.5 ,\"a, \"\"b\"\"\nc\",y\r\n   \r\nQC\r\n,\" \",,\r\n",
			"{ Campaign=\"a, \\\"b\\\"\\nc\" State=\"ON\" TaxRate=1.5 }\n{ State=\"QC\" }\n{ }\n"},
		{"CSV: a header only", "text/csv", "state\n", ""},
		{"CSV: blanks belong to texts", "text/csv", "state,campaign\n ON ,null\n", "{ Campaign=\"null\" State=\" ON \" }\n"},
		{"form: nothing of ours", "application/x-www-form-urlencoded", "a=b&financialtransactions=", ""},
		{"form: JSON's names", "application/x-www-form-urlencoded", "financialTransactions=" + url.QueryEscape(`[{"state":"ON"}]`), "{ State=\"ON\" }\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			core := &core{t: t}
			w := serve(core, "POST", Path, http.Header{"Content-Type": {c.contentType}}, c.body)
			if w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if diff := cmp.Diff(c.want, print(core.transactions())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRefusesByName: a request with any value that cannot be read is refused whole, and every such value is named.
func TestRefusesByName(t *testing.T) {
	xmlOf := func(s string) string {
		return `<FinancialTransactionsBatchCreate xmlns:i="` + instanceNS + `"><FinancialTransactions><FinancialTransactionsBatchCreateViewModel>` + s + `</FinancialTransactionsBatchCreateViewModel></FinancialTransactions></FinancialTransactionsBatchCreate>`
	}
	const net = "it must be a .NET decimal: at most 28 digits after the point, and all digits together, without the point, at most 79228162514264337593543950335"
	for _, c := range []struct {
		name, contentType, body string
		want                    []string // field, and the message where it matters
	}{
		{"the published example", "application/json", `{"financialTransactions":[{},{},{"transactionAmount":"12,x"}]}`,
			[]string{"FinancialTransactions[2].TransactionAmount: '12,x' is an Invalid value for 'TransactionAmount'"}},
		{"all of them", "application/json", `{"financialTransactions":[{"taxRate":"+5","state":["x"],"freeAmount":true},{"transactionTime":"02/03/2015"},{"taxArea":{}}]}`,
			[]string{"FinancialTransactions[0].TaxRate", `FinancialTransactions[0].State: '["x"]' is an Invalid value for 'State'`, "FinancialTransactions[0].FreeAmount", "FinancialTransactions[1].TransactionTime", "FinancialTransactions[2].TaxArea"}},
		{"leading zeros", "application/json", `{"financialTransactions":[{"taxRate":"007"},{"taxRate":007}]}`, []string{"FinancialTransactions[0].TaxRate", "FinancialTransactions[1].TaxRate: '007' is an Invalid value for 'TaxRate'"}},
		{"a plus sign", "application/json", `{"financialTransactions":[{"taxRate":"+5"},{"taxRate":+5},{"taxRate":-.}]}`,
			[]string{"FinancialTransactions[0].TaxRate", "FinancialTransactions[1].TaxRate: '+5' is an Invalid value for 'TaxRate'", "FinancialTransactions[2].TaxRate: '-.' is an Invalid value for 'TaxRate'"}},
		{"too large for .NET", "application/json", `{"financialTransactions":[{"taxRate":79228162514264337593543950336,"freeAmount":1e999999999,"bonusAmount":"0.00000000000000000000000000001"}]}`,
			[]string{"FinancialTransactions[0].FreeAmount: '1e999999999' is an Invalid value for 'FreeAmount': " + net,
				"FinancialTransactions[0].BonusAmount: '0.00000000000000000000000000001' is an Invalid value for 'BonusAmount': " + net,
				"FinancialTransactions[0].TaxRate: '79228162514264337593543950336' is an Invalid value for 'TaxRate': " + net}},
		{"years", "application/json", `{"financialTransactions":[{"transactionTime":"1899-12-31T23:59:59.9999999"},{"transactionTime":"\/Date(9214646400000)\/"},{"transactionTime":"0001-01-01T00:00:01Z"}]}`,
			[]string{"FinancialTransactions[0].TransactionTime: '1899-12-31T23:59:59.9999999' is an Invalid value for 'TransactionTime': it lies in the year 1899; it must lie between 1900-01-01 and 2261-12-31",
				"FinancialTransactions[1].TransactionTime: '/Date(9214646400000)/' is an Invalid value for 'TransactionTime': it lies in the year 2262; it must lie between 1900-01-01 and 2261-12-31",
				"FinancialTransactions[2].TransactionTime"}},
		{"NUL", "application/json", `{"financialTransactions":[{"state":"a\u0000b"}]}`, []string{"FinancialTransactions[0].State: 'a\ufffdb' is an Invalid value for 'State': it contains a NUL character"}},
		{"a member twice", "application/json", `{"financialTransactions":[{"taxRate":1,"TaxRate":2}]}`, []string{"FinancialTransactions[0].TaxRate: '2' is an Invalid value for 'TaxRate': it is given twice"}},
		{"two lists", "application/json", `{"financialTransactions":[{}],"FinancialTransactions":[{}]}`, []string{"FinancialTransactions: '' is an Invalid value for 'FinancialTransactions': it is given twice"}},
		{"an object for the list", "application/json", `{"financialTransactions":{"state":"ON"}}`, []string{`FinancialTransactions: '{"state":"ON"}' is an Invalid value for 'FinancialTransactions'`}},
		{"a text for the list", "application/json", `{"financialTransactions":"[]"}`, []string{"FinancialTransactions"}},
		{"no objects in the list", "application/json", `{"financialTransactions":[1,{},"null",[]]}`,
			[]string{"FinancialTransactions[0]: '1' is an Invalid value for 'FinancialTransactions': an object is expected", "FinancialTransactions[2]", "FinancialTransactions[3]"}},
		{"a long value", "application/json", `{"financialTransactions":[{"taxRate":"` + strings.Repeat("é", 101) + `"}]}`, []string{"FinancialTransactions[0].TaxRate: '" + strings.Repeat("é", 100) + "…' is an Invalid value for 'TaxRate'"}},
		{"JSV", "text/jsv", `{financialTransactions:[{taxRate:x,transactionTime:02/03/2015,state:[a]}]}`, []string{"FinancialTransactions[0].TaxRate", "FinancialTransactions[0].TransactionTime", "FinancialTransactions[0].State"}},
		{"JSV: a bare comma", "text/jsv", `{financialTransactions:{a:1}}`, []string{"FinancialTransactions"}},
		{"XML: empty is no number", "text/xml", xmlOf(`<TaxRate/><FreeAmount> </FreeAmount><TransactionTime></TransactionTime>`), []string{"FinancialTransactions[0].TaxRate: '' is an Invalid value for 'TaxRate'", "FinancialTransactions[0].FreeAmount", "FinancialTransactions[0].TransactionTime"}},
		{"XML: no exponent, no thousands, no other times", "text/xml", xmlOf(`<TaxRate>1E+3</TaxRate><FreeAmount>1,234</FreeAmount><TransactionTime>20150302</TransactionTime>`), []string{"FinancialTransactions[0].TaxRate", "FinancialTransactions[0].FreeAmount", "FinancialTransactions[0].TransactionTime"}},
		{"XML: elements in a value", "text/xml", xmlOf(`<State>a<b>c</b></State>`), []string{"FinancialTransactions[0].State"}},
		{"XML: a member twice", "text/xml", xmlOf(`<State>a</State><State i:nil="true"/>`), []string{"FinancialTransactions[0].State"}},
		{"CSV", "text/csv", "state,taxRate,transactionTime\nON,x,02/03/2015\nON,1,\nON,-,\n", []string{"FinancialTransactions[0].TaxRate", "FinancialTransactions[0].TransactionTime", "FinancialTransactions[2].TaxRate"}},
		{"CSV: a column twice", "text/csv", "state,State\na,b\n", []string{"FinancialTransactions[0].State"}},
		{"form", "application/x-www-form-urlencoded", "FinancialTransactions=" + url.QueryEscape("[{taxRate:x}]"), []string{"FinancialTransactions[0].TaxRate: 'x' is an Invalid value for 'TaxRate'"}},
		{"form: cut off", "application/x-www-form-urlencoded", "FinancialTransactions=[{taxRate:1}", []string{"FinancialTransactions: '[{taxRate:1}' is an Invalid value for 'FinancialTransactions': unexpected end, a ] is missing at line 1, column 13"}},
		{"form: an object", "application/x-www-form-urlencoded", "FinancialTransactions={}", []string{"FinancialTransactions"}},
		{"form: two lists", "application/x-www-form-urlencoded", "FinancialTransactions=[]&financialtransactions=[]", []string{"FinancialTransactions"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			core := &core{t: t}
			w := post(core, c.contentType, c.body)
			var got struct {
				ResponseStatus struct {
					ErrorCode, Message string
					Errors             []struct{ ErrorCode, FieldName, Message string }
				}
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil && w.Header().Get("Content-Type") == "application/json; charset=utf-8" {
				t.Fatal(err, w.Body)
			}
			if w.Code != 400 || core.got != nil {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if got.ResponseStatus.ErrorCode != "SerializationException" || got.ResponseStatus.Message != "Unable to bind to request 'FinancialTransactionsBatchCreate'" {
				t.Errorf("%+v", got)
			}
			var have []string
			for i, e := range got.ResponseStatus.Errors {
				line := e.FieldName
				if i < len(c.want) && strings.Contains(c.want[i], ": ") {
					line += ": " + e.Message
				}
				if e.ErrorCode != "SerializationException" {
					t.Errorf("%+v", e)
				}
				have = append(have, line)
			}
			if diff := cmp.Diff(c.want, have); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRefusesWhatCannotBeRead: the answer says which type was expected, and where the text breaks.
func TestRefusesWhatCannotBeRead(t *testing.T) {
	root := func(s string) string {
		return "<FinancialTransactionsBatchCreate>" + s + "</FinancialTransactionsBatchCreate>"
	}
	for _, c := range []struct{ name, path, contentType, body, want string }{
		{"no type", Path, "", "{}", "the Content-Type must be"},
		{"another type", Path, "text/plain", "{}", "the Content-Type must be"},
		{"a form without a boundary", Path, "multipart/form-data", "x", "the Content-Type must be"},
		{"no type on a suffix", Path + ".json", "", "{}", "the Content-Type must be"},
		{"JSON called a form", Path, "application/x-www-form-urlencoded", `{"financialTransactions":[{}]}`, "the form has no FinancialTransactions"},
		{"JSV called CSV", Path, "text/csv", `{financialTransactions:[{}]}`, "the first line names no member of a transaction"},
		{"not UTF-8", Path, "application/json", "{\"x\":\"\xe9\"}", "the body is not UTF-8"},
		{"a list of transactions", Path, "application/json", `[{"state":"ON"}]`, "an object is expected"},
		{"a text", Path, "application/json", `"x"`, "an object is expected"},
		{"truncated", Path, "application/json", `{"financialTransactions":[{}`, "a ] is missing at line 1, column 29"},
		{"something behind", Path, "application/json", `{} {}`, "unexpected text after the value at line 1, column 4"},
		{"malformed after an error", Path, "application/json", `{"financialTransactions":[{"taxRate":"x"}]`, "a } is missing"},
		{"null", Path, "application/json", ` null `, "an object is expected"},
		{"JSV: null", Path, "text/jsv", `null`, "an object is expected"},
		{"JSV: truncated", Path, "text/jsv", `{financialTransactions:[{state:ON}]`, "a } is missing at line 1, column 36"},
		{"JSV: a list", Path, "text/jsv", `[{state:ON}]`, "an object is expected"},
		{"JSV: JSON's escapes", Path, "text/jsv", `{financialTransactions:[{state:"\"a\""}]}`, "expected , or } at line 1, column"},
		{"XML: another root", Path, "text/xml", "<FinancialTransactionsCreate/>", `unexpected element FinancialTransactionsCreate in the namespace "", FinancialTransactionsBatchCreate in "` + contractNS + `" is expected before line 1, column 31`},
		{"XML: another namespace", Path, "text/xml", `<FinancialTransactionsBatchCreate xmlns="urn:x"/>`, `in the namespace "urn:x"`},
		{"XML: a list in another namespace", Path, "text/xml", root(`<FinancialTransactions xmlns="urn:x"/>`), `in the namespace "urn:x"`},
		{"XML: a member in another namespace", Path, "text/xml", root(`<FinancialTransactions><FinancialTransactionsBatchCreateViewModel><State xmlns="urn:x"/></FinancialTransactionsBatchCreateViewModel></FinancialTransactions>`), `unexpected element State in the namespace "urn:x"`},
		{"XML: another element in the list", Path, "text/xml", root(`<FinancialTransactions><Transaction/></FinancialTransactions>`), "unexpected element Transaction"},
		{"XML: text in the list", Path, "text/xml", root(`<FinancialTransactions>[]</FinancialTransactions>`), `unexpected text "[]"`},
		{"XML: a document type", Path, "text/xml", `<!DOCTYPE x [<!ENTITY a "b">]>` + root(""), "a document type is prohibited"},
		{"XML: an unknown entity", Path, "text/xml", root("&a;"), "invalid character entity &a;"},
		{"XML: truncated", Path, "text/xml", "<FinancialTransactionsBatchCreate>", "unexpected EOF"},
		{"XML: crossed", Path, "text/xml", "<FinancialTransactionsBatchCreate><a></FinancialTransactionsBatchCreate></a>", "element <a> closed by </FinancialTransactionsBatchCreate>"},
		{"XML: two roots", Path, "text/xml", root("") + root(""), "a second element FinancialTransactionsBatchCreate"},
		{"XML: text behind", Path, "text/xml", root("") + "x", `unexpected text "x"`},
		{"XML: another encoding", Path, "text/xml", `<?xml version="1.0" encoding="utf-16"?>` + root(""), "the encoding utf-16 is not known, UTF-8 is expected"},
		{"XML: nil of nothing", Path, "text/xml", root(`<FinancialTransactions nil="true"/>`), `nil is in the namespace ""`},
		{"XML: nil perhaps", Path, "text/xml", root(`<FinancialTransactions xmlns:i="` + instanceNS + `" i:nil="yes"/>`), `nil is "yes"`},
		{"XML is JSON", Path, "text/xml", "{}", `unexpected text "{}"`},
		{"JSON is XML", Path, "application/json", "<x/>", "expected a value"},
		{"CSV: semicolons", Path, "text/csv", "state;taxRate\nON;1\n", "the first line names no member of a transaction"},
		{"CSV: a row too long", Path, "text/csv", "state\nON\nON,1\n", "line 3 has 2 fields, the first line has 1"},
		{"CSV: a quote in a field", Path, "text/csv", "state\nO\"N\n", `bare " in non-quoted-field`},
		{"CSV: quotes without end", Path, "text/csv", "state\n\"ON\n", `extraneous or missing " in quoted-field`},
		{"form: bad escape", Path, "application/x-www-form-urlencoded", "FinancialTransactions=%zz", "the form is not well encoded"},
		{"form: bad parts", Path, "multipart/form-data; boundary=x", "--x\r\n", "the form's parts cannot be told apart"},
		{"URL: bad escape", Path + "?FinancialTransactions=%zz", "application/json", "{}", "the query of the URL is not well encoded"},
		{"URL: a callback that is code", Path + "?callback=alert(1)", "application/json", "{}", "callback is no name of a function"},
		{"an array of requests that is none", "/json/reply/FinancialTransactionsBatchCreate[]", "application/json", "{}", "an array of requests is expected"},
		{"an array of requests without a body", "/json/reply/FinancialTransactionsBatchCreate[]", "application/json", "", "unexpected end"},
		{"an array of no requests", "/json/reply/FinancialTransactionsBatchCreate[]", "application/json", "[{},1]", "an object is expected"},
		{"an array of requests in CSV", "/csv/reply/FinancialTransactionsBatchCreate[]", "text/csv", "state\n", "an array of requests must be JSON, JSV or XML"},
		{"an array of requests and a list", "/json/reply/FinancialTransactionsBatchCreate[]?financialtransactions=[{}]", "application/json", "[{}]", "cannot be given in the URL"},
		{"XML: an array of other requests", "/xml/reply/FinancialTransactionsBatchCreate[]", "text/xml", "<ArrayOfFinancialTransactionsBatchCreate><x/></ArrayOfFinancialTransactionsBatchCreate>", "unexpected element x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			core := &core{t: t}
			w := serve(core, "POST", c.path, http.Header{"Content-Type": {c.contentType}, "Accept": {"text/json"}}, c.body)
			if w.Code != 400 || core.got != nil {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			var got struct{ ResponseStatus struct{ Message string } }
			text := w.Body.String()
			if json.Unmarshal(w.Body.Bytes(), &got) == nil {
				text = got.ResponseStatus.Message
				if begin := fmt.Sprintf("Could not deserialize '%s' request using NAV.ServiceModel.FinancialTransactionsBatchCreate'\nError: ", mediaType(c.contentType)); !strings.HasPrefix(text, begin) {
					t.Errorf("%q does not begin with %q", text, begin)
				}
			}
			if text = strings.ReplaceAll(strings.ReplaceAll(text, "&#34;", `"`), `""`, `"`); !strings.Contains(text, strings.ReplaceAll(c.want, `""`, `"`)) {
				t.Errorf("%s\ndoes not say: %s", text, c.want)
			}
		})
	}
}

// TestTheURLsListComesAfterTheBodys, of every format but a form.
func TestTheURLsListComesAfterTheBodys(t *testing.T) {
	for mediaType, body := range map[string]string{"application/json": `{"financialTransactions":[{"state":"BODY"}]}`, "text/csv": "state\nBODY\n"} {
		core := &core{t: t}
		w := serve(core, "POST", Path+"?financialtransactions=[{state:URL},{taxRate:1}]", http.Header{"Content-Type": {mediaType}}, body)
		if got := core.transactions(); w.Code != 200 || len(got) != 3 || *got[0].State != "BODY" || *got[1].State != "URL" {
			t.Errorf("%s: %d %s: %s", mediaType, w.Code, w.Body, print(got))
		}
	}
	core := &core{t: t}
	w := serve(core, "POST", Path+"?financialtransactions=[{state:URL},{taxRate:x}]", http.Header{"Content-Type": {"application/json"}}, `{"financialTransactions":[{}]}`)
	if w.Code != 400 || core.got != nil || !strings.Contains(w.Body.String(), "FinancialTransactions[2].TaxRate") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestTheFormGoesBeforeTheURL: the same list in both is not two lists.
func TestTheFormGoesBeforeTheURL(t *testing.T) {
	core := &core{t: t}
	w := serve(core, "POST", Path+"?financialtransactions=[{state:URL}]", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, "FinancialTransactions=[{state:FORM}]")
	if got := core.transactions(); w.Code != 200 || len(got) != 1 || *got[0].State != "FORM" {
		t.Errorf("%d %s: %v", w.Code, w.Body, got)
	}
	w = serve(core, "POST", Path+"?financialtransactions=[{state:URL}]", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, "FinancialTransactions=")
	if got := core.transactions(); w.Code != 200 || len(got) != 2 || *got[1].State != "URL" {
		t.Errorf("an empty value in the form: %d %s: %v", w.Code, w.Body, got)
	}
}
