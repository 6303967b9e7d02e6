package crmcom

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

const bulk = Base + "customer_events/bulk/"

// webRow is a good row of the kind web, but for the given members.
func webRow(ref string, members ...string) string {
	return purge(`"request_unique_identifier":`+ref, append([]string{
		`"accounts_receivable_identifier":{"number":"ACR0000000020"}`, `"performed_by_unit_identifier":{"name":"Admin Unit"}`,
		`"performed_on":"2016-06-22T15:00:00"`, `"website":"www.crm.com"`,
	}, members...)...)
}

// purge makes an object of members, of which a later one replaces an earlier one with the same name; "name" alone takes it away.
func purge(first string, members ...string) string {
	var names []string
	values := map[string]string{}
	for _, m := range append([]string{first}, members...) {
		name, _, _ := strings.Cut(m, ":")
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
		values[name] = m
	}
	var list []string
	for _, name := range names {
		if values[name] != name {
			list = append(list, values[name])
		}
	}
	return "{" + strings.Join(list, ",") + "}"
}

func request(set string, rows ...string) string {
	return `{"token":"{{token}}","` + set + `":[` + strings.Join(rows, ",") + `]}`
}

func webCall(rows ...string) string { return request("web_customer_events_set", rows...) }

// good and bad are rows of an answer.
func good(number int, ref string) string {
	return fmt.Sprintf(`{"number":"%d","id":"%s","request_unique_identifier":%s}`, number, strings.ToUpper(fmt.Sprintf("%032x", 0xabc0+number-1)), ref)
}

func bad(code, sentence, ref string) string {
	descriptions := map[string]string{}
	for _, e := range exceptions {
		descriptions[e.code] = e.description
	}
	var b []byte
	b = append(b, `{"error_description":`...)
	b = appendText(b, "Error:"+sentence+" - Description:"+descriptions[code])
	return string(b) + `,"error_code":"` + code + `","request_unique_identifier":` + ref + `}`
}

func sets(unprocessed, processed []string) string {
	return `{"data":{"unprocessed_customer_events_set":[` + strings.Join(unprocessed, ",") + `],"processed_customer_events_set":[` + strings.Join(processed, ",") +
		`]},"status":{"code":"OK","description":"","message":""}}`
}

func list(rows ...string) []string { return rows }

func failed(code, description, message string) string {
	return `{"data":{},"status":{"code":"` + code + `","description":"` + description + `","message":"` + message + `"}}`
}

// TestRows has the hard cases that concern rows.
func TestRows(t *testing.T) {
	achieved := func(members ...string) string {
		return purge(`"request_unique_identifier":"a"`, append([]string{`"accounts_receivable_identifier":{"number":"ACR0000000020"}`,
			`"classification_identifier":{"name":"Financial Achievement 1"}`, `"performed_by_unit_identifier":{"name":"Admin Unit"}`, `"performed_on":"2016-06-22"`}, members...)...)
	}
	bought := func(line string) string {
		return webRow(`"a"`, `"website"`, `"reference_number":"R1"`, `"products_set":[`+line+`]`)
	}
	const line = `{"product_identifier":{"code":"Bronze"},"net_amount":%s,"vat_amount":0,"total_amount":1}`
	tests := []struct {
		name, path, body, want string
	}{
		{"1: identifiers are texts; a number is its text", "web", webCall(webRow(`"06"`), webRow(`6`), webRow(`6.0`)), sets(nil, list(good(1, `"06"`), good(2, `"6"`), good(3, `"6.0"`)))},
		{"1: a later duplicate is rejected, whatever its type", "web", webCall(webRow(`6`), webRow(`"6"`), webRow(`"6"`)), sets(list(
			bad("DuplicateRequestIdentifierException", "request_unique_identifier (6) Was Already Used in the Same Call.", `"6"`),
			bad("DuplicateRequestIdentifierException", "request_unique_identifier (6) Was Already Used in the Same Call.", `"6"`)), list(good(1, `"6"`)))},
		{"1: an identifier that is too long costs its row", "web", webCall(webRow(`"`+strings.Repeat("é", 501)+`"`), webRow(`"a"`)), sets(list(
			bad("InvalidAPIValueException", "request_unique_identifier Is Out of Range.", `null`)), list(good(2, `"a"`)))},
		{"2: rows that are none", "web", webCall(`null`, `"x"`, webRow(`"a"`), webRow(`"b"`, `"request_unique_identifier"`), webRow(`null`), webRow(`{}`)), sets(list(
			bad("InvalidAPIValueException", "The Customer Event (null) Is Not Valid.", `null`),
			bad("InvalidAPIValueException", "The Customer Event (x) Is Not Valid.", `null`),
			bad("MandatoryAPIValueException", "request_unique_identifier Is Mandatory.", `null`),
			bad("MandatoryAPIValueException", "request_unique_identifier Is Mandatory.", `null`),
			bad("InvalidAPIValueException", "request_unique_identifier ({}) Is Not Valid.", `null`)), list(good(3, `"a"`)))},
		{"3: account and participant", "web", webCall(webRow(`"a"`, `"rewards_participant_identifier":{"number":"RP0000000001"}`)), sets(list(
			bad("MultipleIdentifiersAPIException", "Only One Value of accounts_receivable_identifier or rewards_participant_identifier Can Be Given.", `"a"`)), nil)},
		{"3: neither", "web", webCall(webRow(`"a"`, `"accounts_receivable_identifier"`)), sets(list(
			bad("MandatoryAPIValueException", "accounts_receivable_identifier or rewards_participant_identifier Is Mandatory.", `"a"`)), nil)},
		{"3: null does not count", "web", webCall(webRow(`"a"`, `"rewards_participant_identifier":null`, `"accounts_receivable_identifier":{"id":null,"number":"ACR0000000020"}`)), sets(nil, list(good(1, `"a"`)))},
		{"3: two members", "web", webCall(webRow(`"a"`, `"performed_by_unit_identifier":{"id":"U1","name":"Admin Unit"}`)), sets(list(
			bad("MultipleIdentifiersAPIException", "Only One Value of performed_by_unit_identifier Can Be Given.", `"a"`)), nil)},
		{"3: no member", "web", webCall(webRow(`"a"`, `"performed_by_unit_identifier":{}`)), sets(list(
			bad("MandatoryAPIValueException", "performed_by_unit_identifier Is Mandatory.", `"a"`)), nil)},
		{"3: not an object", "web", webCall(webRow(`"a"`, `"performed_by_unit_identifier":"Admin Unit"`)), sets(list(
			bad("InvalidAPIValueException", "performed_by_unit_identifier (Admin Unit) Is Not Valid.", `"a"`)), nil)},
		{"4: amounts", "purchases", request("purchase_customer_events_set", bought(fmt.Sprintf(line, `0.1`)+","+fmt.Sprintf(line, `"60"`)+","+fmt.Sprintf(line, `1e2`)+","+fmt.Sprintf(line, `-5`)+
			","+fmt.Sprintf(line, `1234567890123456789012345678.0123456789`))), sets(nil, list(good(1, `"a"`)))},
		{"4: too many fraction digits", "purchases", request("purchase_customer_events_set", bought(fmt.Sprintf(line, `0.12345678901`))), sets(list(
			bad("InvalidAPIValueException", "products_set[0].net_amount (0.12345678901) Is Out of Range.", `"a"`)), nil)},
		{"4: a huge exponent", "purchases", request("purchase_customer_events_set", bought(fmt.Sprintf(line, `1e999999999`))), sets(list(
			bad("InvalidAPIValueException", "products_set[0].net_amount (1e999999999) Is Out of Range.", `"a"`)), nil)},
		{"4: not a number", "purchases", request("purchase_customer_events_set", bought(fmt.Sprintf(line, `"1,5"`))), sets(list(
			bad("InvalidAPIValueException", "products_set[0].net_amount (1,5) Is Not Valid.", `"a"`)), nil)},
		{"4: no lines", "purchases", request("purchase_customer_events_set", bought(``)), sets(list(
			bad("MandatoryAPIValueException", "products_set Is Mandatory.", `"a"`)), nil)},
		{"4: a line that is none", "purchases", request("purchase_customer_events_set", bought(`7`)), sets(list(
			bad("InvalidAPIValueException", "products_set[0] (7) Is Not Valid.", `"a"`)), nil)},
		{"8: fields", "web", `{"fields_set":"id, number,nonsense",` + webCall(webRow(`"a"`), `null`)[1:], sets(list(`{"request_unique_identifier":null}`),
			list(`{"number":"1","id":"0000000000000000000000000000ABC0","request_unique_identifier":"a"}`))},
		{"8: one field", "web", `{"fields_set":"error_code",` + webCall(webRow(`"a"`), `null`)[1:], sets(list(`{"error_code":"InvalidAPIValueException","request_unique_identifier":null}`),
			list(`{"request_unique_identifier":"a"}`))},
		{"8: no field", "web", `{"fields_set":"",` + webCall(webRow(`"a"`))[1:], sets(nil, list(good(1, `"a"`)))},
		{"8: an array", "web", webCall(webRow(`"a"`))[:len(webCall(webRow(`"a"`)))-1] + `,"fields_set":["number","x"]}`, sets(nil, list(`{"number":"1","request_unique_identifier":"a"}`))},
		{"9: kind 7 by its later name", "financial_statements", request("financial_statement_customer_events_set", webRow(`"a"`, `"classification_identifier":{"name":"Financial Statement 1"}`)), sets(nil, list(good(1, `"a"`)))},
		{"9: kind 7 by its printed name, the other null", "financial_statements", `{"financial_statement_customer_events_set":null,` +
			request("financial_achievement_customer_events_set", webRow(`"a"`, `"classification_identifier":{"name":"Financial Statement 1"}`))[1:], sets(nil, list(good(1, `"a"`)))},
		{"10: fields of other kinds and unknown ones", "web", webCall(webRow(`"a"`, `"udf_string_9":{}`, `"udf_string_1":null`, `"reference_number":[]`, `"nonsense":{"a":[1,{}]}`, `"udf_float_1":"1.5"`)), sets(nil, list(good(1, `"a"`)))},
		{"11: exact words", "social_media", request("social_media_customer_events_set", webRow(`"a"`, `"social_media":"facebook"`, `"profile":"p"`, `"action":"LIKE"`), webRow(`"b"`, `"social_media":"FACEBOOK"`, `"profile":"p"`, `"action":"SHARE"`)), sets(list(
			bad("InvalidAPIValueException", "social_media (facebook) Is Not Valid.", `"a"`),
			bad("InvalidAPIValueException", "action (SHARE) Is Not Valid.", `"b"`)), nil)},
		{"12: other letters, and no escaping but what JSON demands", "web", webCall(webRow(`"<é&>"`, `"accounts_receivable_identifier":{"name":"Καφέ \"A&B\" <1>"}`), webRow(`"\u003c2"`, `"accounts_receivable_identifier":{"number":"A \"<&>\" Ω\u2028"}`)), sets(list(
			bad("NotFoundAPIValueException", "Account (A \"<&>\" Ω\u2028) Not Found.", `"<2"`)), list(good(1, `"<é&>"`)))},
		{"a currency that is not the unit's", "purchases", `{"intended_currency_identifier":{"code":"USD"},` + request("purchase_customer_events_set", bought(fmt.Sprintf(line, `1`)))[1:], sets(list(
			bad("CurrencyMismatchException", "intended_currency_identifier (USD) Is Not the Currency of the Unit.", `"a"`)), nil)},
		{"a currency that is none", "purchases", `{"intended_currency_identifier":"EUR",` + request("purchase_customer_events_set", bought(fmt.Sprintf(line, `1`)))[1:], sets(list(
			bad("InvalidAPIValueException", "intended_currency_identifier (EUR) Is Not Valid.", `"a"`)), nil)},
		{"a currency where there is none", "web", `{"intended_currency_identifier":"USD",` + webCall(webRow(`"a"`))[1:], sets(nil, list(good(1, `"a"`)))},
		{"the second payment medium type of kind 6 is the brand", "financial_achievements", request("financial_achievement_customer_events_set",
			strings.TrimSuffix(achieved(`"payment_medium_type_identifier":{"name":"Card"}`), "}")+`,"payment_medium_type_identifier":{"name":"Visa"}}`), sets(nil, list(good(1, `"a"`)))},
		{"… and not given as well", "financial_achievements", request("financial_achievement_customer_events_set",
			strings.TrimSuffix(achieved(`"payment_medium_brand_identifier":{"name":"Amex"}`, `"payment_medium_type_identifier":{"name":"Card"}`), "}")+`,"payment_medium_type_identifier":{"name":"Visa"}}`), sets(list(
			bad("MultipleIdentifiersAPIException", "Only One Value of payment_medium_brand_identifier Can Be Given.", `"a"`)), nil)},
		{"a self referral", "referrals", request("referral_customer_events_set", webRow(`"a"`, `"referred_rewards_participant_identifier":{"number":"RP0000000001"}`, `"referred_by_rewards_participant_identifier":{"number":"RP0000000001"}`)), sets(list(
			bad("InvalidAPIValueException", "Participant RP0000000001 Cannot Refer Itself.", `"a"`)), nil)},
		{"the same participant referred twice in a call", "referrals", request("referral_customer_events_set",
			webRow(`"a"`, `"referred_rewards_participant_identifier":{"number":"RP0000000001"}`, `"referred_by_rewards_participant_identifier":{"number":"RP0000000002"}`),
			webRow(`"b"`, `"referred_rewards_participant_identifier":{"number":"RP0000000001"}`, `"referred_by_rewards_participant_identifier":{"number":"RP0000000003"}`)), sets(list(
			bad("ReferredByAnotherParticipantException", "Participant RP0000000001 Was Already Referred by Another Participant.", `"b"`)), list(good(1, `"a"`)))},
		{"no rows", "web", webCall(), sets(nil, nil)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := serve(&core{t: t}, "POST", bulk+test.path+"/create", http.Header{"Content-Type": {"text/plain"}}, test.body)
			if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("status %d, headers %v", w.Code, w.Header())
			}
			if diff := cmp.Diff(test.want, w.Body.String()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCalls has calls that fail as a whole.
func TestCalls(t *testing.T) {
	rows := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = webRow(fmt.Sprintf(`"%d"`, i))
		}
		return webCall(list...)
	}
	const (
		badToken  = "The token is invalid or has expired."
		invalid   = "The specified API value is not valid."
		mandatory = "A mandatory API value was not specified."
	)
	tests := []struct {
		name, path, body, want string
	}{
		{"no token", "customer_events/bulk/web/create", `{"web_customer_events_set":[]}`, failed("InvalidTokenException", badToken, "Token Is Not Valid")},
		{"another token, behind the rows", "customer_events/bulk/web/create", `{"web_customer_events_set":[],"token":"x"}`, failed("InvalidTokenException", badToken, "Token Is Not Valid")},
		{"a bad token comes before a bad set", "customer_events/bulk/web/create", `{"token":"x"}`, failed("InvalidTokenException", badToken, "Token Is Not Valid")},
		{"not JSON", "customer_events/bulk/web/create", `{"token":`, failed("InvalidAPIValueException", invalid, "The Request Body Is Not Valid JSON (unexpected end, a value is missing at line 1, column 10).")},
		{"nothing", "customer_events/bulk/web/create", ``, failed("InvalidAPIValueException", invalid, "The Request Body Is Not Valid JSON (unexpected end, a value is missing at line 1, column 1).")},
		{"not an object", "customer_events/bulk/web/create", `[]`, failed("InvalidAPIValueException", invalid, "The Request Body Is Not a JSON Object.")},
		{"no set", "customer_events/bulk/web/create", `{"token":"{{token}}"}`, failed("MandatoryAPIValueException", mandatory, "web_customer_events_set Is Mandatory.")},
		{"a set that is none", "customer_events/bulk/web/create", `{"token":"{{token}}","web_customer_events_set":{}}`, failed("MandatoryAPIValueException", mandatory, "web_customer_events_set Is Not an Array.")},
		{"the set of another kind", "customer_events/bulk/web/create", request("achievement_customer_events_set"), failed("MandatoryAPIValueException", mandatory, "web_customer_events_set Is Mandatory.")},
		{"the set twice", "customer_events/bulk/web/create", `{"web_customer_events_set":[],` + webCall()[1:], failed("InvalidAPIValueException", invalid, "web_customer_events_set Was Given Twice.")},
		{"kind 7 with both sets", "customer_events/bulk/financial_statements/create", `{"financial_statement_customer_events_set":[],` + request("financial_achievement_customer_events_set")[1:],
			failed("MultipleIdentifiersAPIException", "Only one of the semi-optional API values can be specified.", "Only One of financial_statement_customer_events_set and financial_achievement_customer_events_set Can Be Given.")},
		{"1001 rows", "customer_events/bulk/web/create", rows(1001), failed("MaximumEventsExceededException", "The maximum number of customer events of a call was exceeded.", "1001 Customer Events Were Given, the Maximum Is 1000.")},
		{"64 levels", "customer_events/bulk/web/create", `{"token":"x","x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, failed("InvalidTokenException", badToken, "Token Is Not Valid")},
		{"65 levels", "customer_events/bulk/web/create", `{"token":"x","x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
			failed("InvalidAPIValueException", invalid, "The Request Body Is Not Valid JSON (nested deeper than 64 levels at line 1, column 81).")},
		{"a login without a password", "authentication/token", `{"username":"AbCdEf","organisation":"demo"}`, failed("MandatoryAPIValueException", mandatory, "password Is Mandatory.")},
		{"a login with a wrong password", "authentication/token", `{"username":"AbCdEf","password":"x","organisation":"demo"}`, failed("InvalidCredentialsException", "The specified credentials are not valid.", "Credentials Are Not Valid")},
		{"a login to another organisation", "authentication/token", `{"username":"AbCdEf","password":"0123456789012345678901","organisation":"x"}`, failed("InvalidCredentialsException", "The specified credentials are not valid.", "Credentials Are Not Valid")},
		{"a login without a key", "authentication/web_api_key/token", ``, failed("InvalidCredentialsException", "The specified credentials are not valid.", "Credentials Are Not Valid")},
		{"release", "authentication/token/release", `{"token":"{{token}}"}`, `{"data":{},"status":{"code":"OK","description":"","message":""}}`},
		{"release of another token", "authentication/token/release", `{"token":"x"}`, failed("InvalidTokenException", badToken, "Token Is Not Valid")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &core{t: t}
			w := serve(c, "POST", Base+test.path, nil, test.body)
			if diff := cmp.Diff(test.want, w.Body.String()); diff != "" || w.Code != http.StatusOK {
				t.Errorf("status %d, answer (-want +got):\n%s", w.Code, diff)
			}
			if len(c.batches) > 0 {
				t.Error("something was accepted")
			}
		})
	}
	t.Run("1000 rows", func(t *testing.T) {
		c := &core{t: t}
		w := serve(c, "POST", bulk+"web/create/", nil, rows(1000))
		if w.Code != http.StatusOK || len(c.batches) != 1 || strings.Count(w.Body.String(), `"number"`) != 1000 {
			t.Errorf("status %d, %d batches", w.Code, len(c.batches))
		}
	})
}

// TestTroubles has answers that the rows do not decide, many with an HTTP status of their own.
func TestTroubles(t *testing.T) {
	tests := []struct {
		name       string
		core       core
		method     string
		path       string
		status     int
		code       string
		retryAfter string
		location   string
	}{
		{name: "pending", core: core{pending: 1}, status: 202, code: "PENDING", location: "/v1/batches/17"},
		{name: "busy", core: core{refuse: &ingest.Error{Code: ingest.CodeBusy, Index: -1, RetryAfter: 1500 * time.Millisecond}}, status: 503, code: "ServiceUnavailableException", retryAfter: "2"},
		{name: "too large", core: core{refuse: &ingest.Error{Code: ingest.CodeTooLarge, Index: 3}}, status: 413, code: "RequestTooLargeException"},
		{name: "too many", core: core{refuse: &ingest.Error{Code: ingest.CodeRateLimited, Index: -1, RetryAfter: time.Second}}, status: 429, code: "TooManyRequestsException", retryAfter: "1"},
		{name: "our fault", core: core{refuse: ingest.NewError(ingest.CodeInternal, "internal error")}, status: 500, code: "InternalErrorException"},
		{name: "unknown method", path: Base + "customer_events/bulk/nonsense/create", status: 200, code: "UnknownMethodException"},
		{name: "another method", path: Base + "nonsense", status: 200, code: "UnknownMethodException"},
		{name: "GET", method: "GET", status: 200, code: "UnknownMethodException"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.method == "" {
				test.method = "POST"
			}
			if test.path == "" {
				test.path = bulk + "web/create"
			}
			test.core.t = t
			w := serve(&test.core, test.method, test.path, nil, webCall(webRow(`"a"`)))
			if w.Code != test.status || !strings.HasPrefix(w.Body.String(), `{"data":{},"status":{"code":"`+test.code+`","description":"`) ||
				w.Header().Get("Retry-After") != test.retryAfter || w.Header().Get("Location") != test.location {
				t.Errorf("%d %v\n%s", w.Code, w.Header(), w.Body)
			}
		})
	}
}

// TestItems looks at what a call becomes.
func TestItems(t *testing.T) {
	parse := func(t *testing.T, path, body string) []ingest.Item {
		t.Helper()
		for i := range methods {
			if methods[i].path == path {
				c, err := parseCall(body, &methods[i])
				if err != nil {
					t.Fatal(err)
				}
				return parseRows(c, &methods[i], "demo")
			}
		}
		t.Fatal("no method " + path)
		return nil
	}
	text := func(s string) *string { return &s }

	t.Run("all defects of a row that is refused here, each once", func(t *testing.T) {
		row := webRow(`"a"`, `"performed_on":"22/06/2016"`, `"website"`, `"udf_float_1":"x"`, `"performed_by_unit_identifier":7`)
		items := parse(t, "web", webCall(row))
		type defect struct{ Code, Field, Value string }
		var got []defect
		for _, r := range items[0].Defects {
			got = append(got, defect{r.Code, r.Field, value(&r)})
		}
		want := []defect{{"invalid", "unit", "7"}, {"invalid", "performed_on", "22/06/2016"}, {"invalid", "udf_float_1", "x"}, {"missing", "website", ""}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if items[0].Value != nil || string(items[0].Original) != row || items[0].Format != schemas.FormatJSON {
			t.Errorf("%+v", items[0])
		}
	})
	t.Run("members go where they belong", func(t *testing.T) {
		row := webRow(`"a"`, `"website"`, `"performed_on":"2016-06-22T15:00:00.1239+02:00"`, `"description":"d"`, `"udf_string_8":8`, `"udf_string_16":"p"`, `"udf_float_2":1.5`, `"udf_date_3":"2016-06-22"`,
			`"reference_number":"R"`, `"payment_medium_identifier":"1234"`, `"invoice_identifier":{"back_office_code":"B"}`, `"products_set":[{"product_identifier":{"code":"C"},"quantity":2,"net_amount":-1.50,"vat_amount":0,"total_amount":"1e1"}]`)
		items := parse(t, "purchases", `{"intended_currency_identifier":{"code":"EUR"},`+request("purchase_customer_events_set", row)[1:])
		on, day := time.Date(2016, 6, 22, 13, 0, 0, 123e6, time.UTC), time.Date(2016, 6, 22, 0, 0, 0, 0, time.UTC)
		float := 1.5
		dec := func(s string) *schemas.Decimal { d, _ := parseDecimal(s); return &d }
		want := &schemas.CustomerEvent{
			Kind: "purchase", Account: &schemas.AccountIdentifier{Number: text("ACR0000000020")},
			EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: text("Admin Unit")}, PerformedOn: &on, Description: text("d"), UDFString8: text("8"), UDFFloat2: &float, UDFDate3: &day},
			UDFString16: text("p"), ReferenceNumber: text("R"), PaymentMedium: text("1234"), Invoice: &schemas.InvoiceIdentifier{BackOfficeCode: text("B")},
			IntendedCurrency: &schemas.CurrencyIdentifier{Code: text("EUR")},
			Products:         &[]schemas.PurchaseLine{{Product: &schemas.ProductIdentifier{Code: text("C")}, Quantity: dec("2"), NetAmount: dec("-1.5"), VATAmount: dec("0"), TotalAmount: dec("10")}},
		}
		equal := cmp.Comparer(func(a, b schemas.Decimal) bool { return a.Equal(b) })
		if diff := cmp.Diff(want, items[0].Value, equal); diff != "" || items[0].Defects != nil {
			t.Error(diff, items[0].Defects)
		}
	})
	t.Run("the second payment medium type is the brand", func(t *testing.T) {
		items := parse(t, "financial_achievements", request("financial_achievement_customer_events_set",
			`{"payment_medium_type_identifier":{"name":"Card"},"payment_medium_type_identifier":{"name":"Visa"},"request_unique_identifier":"a"}`))
		e := items[0].Value.(*schemas.CustomerEvent)
		if *e.PaymentMediumType.Name != "Card" || *e.PaymentMediumBrand.Name != "Visa" {
			t.Errorf("%+v %+v", e.PaymentMediumType, e.PaymentMediumBrand)
		}
	})
	t.Run("referrals have the tenant's key", func(t *testing.T) {
		items := parse(t, "referrals", request("referral_customer_events_set", `{"request_unique_identifier":"a"}`))
		if _, ok := items[0].Value.(*schemas.Referral); !ok || string(items[0].Key) != "demo" {
			t.Errorf("%+v", items[0])
		}
	})
	t.Run("lines are bounded", func(t *testing.T) {
		empty := strings.Repeat("{},", maxLines-1)
		items := parse(t, "purchases", request("purchase_customer_events_set", webRow(`"a"`, `"products_set":[`+empty+`{}]`), webRow(`"b"`, `"products_set":[{},{}]`)))
		if items[0].Defects != nil {
			t.Errorf("%+v", items[0].Defects)
		}
		if d := items[1].Defects; d == nil || d[0].Code != schemas.CodeOutOfRange || d[0].Field != "products" {
			t.Errorf("%+v", d)
		}
	})
	t.Run("a row of defects has a bounded list of them", func(t *testing.T) {
		items := parse(t, "purchases", request("purchase_customer_events_set", webRow(`"a"`, `"products_set":[`+strings.Repeat("1,", 5000)+`1]`)))
		if n := len(items[0].Defects); n != schemas.MaxReasons {
			t.Errorf("%d", n)
		}
	})
}

func TestDates(t *testing.T) {
	for text, want := range map[string]string{
		"2016-06-22T15:00:00":            "2016-06-22T15:00:00Z",
		"2016-06-22T15:00:00Z":           "2016-06-22T15:00:00Z",
		"2016-06-22T15:00:00+02:00":      "2016-06-22T13:00:00Z",
		"2016-06-22T15:00:00-0530":       "2016-06-22T20:30:00Z",
		"2016-06-22T15:00:00.5":          "2016-06-22T15:00:00.5Z",
		"2016-06-22T15:00:00.123456789Z": "2016-06-22T15:00:00.123Z",
		"2016-02-29":                     "2016-02-29T00:00:00Z",
		"2017-02-29":                     "",
		"2016-13-01":                     "",
		"2016-00-01":                     "",
		"2016-06-31":                     "",
		"2016-06-22T24:00:00":            "",
		"2016-06-22T15:00":               "",
		"2016-06-22 15:00:00":            "",
		"2016-06-22T15:00:00 ":           "",
		"2016-06-22T15:00:00.":           "",
		"2016-06-22T15:00:00+2":          "",
		"2016-06-22T15:00:00+02:0":       "",
		"22-06-2016":                     "",
		"":                               "",
		"2016-6-2":                       "",
	} {
		got := ""
		if d, ok := parseDate(text); ok {
			got = d.Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
