package validation_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

// goodRecords has a record without defects of every reference and fact topic, with all its fields set.
func goodRecords() map[string]any {
	text := func(s string) *string { return &s }
	one, two, day := decimal.NewFromInt(1), decimal.NewFromInt(2), time.Date(2016, 6, 22, 0, 0, 0, 0, time.UTC)
	return map[string]any{
		schemas.Accounts:            &schemas.Account{ID: "A", Number: "ACR1", Name: text("Jane"), PaymentMediumTypes: &[]string{"T"}, PaymentMediumBrands: &[]string{"B"}},
		schemas.Participants:        &schemas.Participant{ID: "P", Number: "RP1", AccountID: text("A")},
		schemas.Units:               &schemas.Unit{ID: "U", Name: "Admin Unit", AlternativeCode: text("ADM"), CurrencyID: text("C"), CurrencyCode: text("EUR")},
		schemas.Classifications:     &schemas.Classification{ID: "C", Name: "Web", AlternativeCode: text("W"), Kind: schemas.EventReferral},
		schemas.Products:            &schemas.Product{ID: "P", Number: new(int64), Code: "Bronze", AlternativeCode: text("P-1"), Description: text("Plan"), Barcodes: []string{"501"}},
		schemas.PaymentMediumTypes:  &schemas.PaymentMediumType{ID: "T", Name: "Card", AlternativeCode: text("CC")},
		schemas.PaymentMediumBrands: &schemas.PaymentMediumBrand{ID: "B", Name: "Visa", AlternativeCode: text("V")},
		schemas.KPIs:                &schemas.KPI{ID: "K", Name: "Revenue", AlternativeCode: text("REV")},
		schemas.Invoices:            &schemas.Invoice{ID: "I", Number: text("INV1"), ReferenceNumber: text("R1"), BackOfficeCode: text("BO1")},
		schemas.Customers:           &schemas.Customer{ID: 77, AccountNumber: text("ACME01"), Name: text("Acme")},
		schemas.CustomerParts:       &schemas.CustomerPart{Customer: 77, Product: "P", PartNumber: "X-1"},
		schemas.APIKeys:             &schemas.APIKey{ID: "abcdef", Tenant: "demo", SecretHash: []byte{1}, Note: "n", CreatedAt: day},
		schemas.Calls: &schemas.Call{ID: "c1", StartedAt: day, CallerNumber: text("0791"), MHID: text("m"), VisitorID: text("v"), ServiceNumber: text("s"),
			TerminatingNumber: text("t"), Campaign: text("c"), Source: text("s"), Medium: text("m"), Keyword: text("k"), FirstSource: text("s"), FirstMedium: text("m"),
			FirstKeyword: text("k"), GoogleClickID: text("g"), GoogleClientID: text("g"), MediaChannel: text("m"), MediaOwner: text("m"), MediaDescription: text("m"),
			Department: text("d"), Tags: []string{"t"}, CallRef: text("r"), PageURI: text("u"), PageTitle: text("p"), LandingPageURI: text("u"), LandingPageTitle: text("p")},
		schemas.OrderLines:   &schemas.OrderLine{ID: "1", OrderNumber: text("O1"), Customer: 77, Product: "P", Quantity: one, OrderedOn: day},
		schemas.InvoiceLines: &schemas.InvoiceLine{ID: "1", InvoiceNumber: text("I1"), OrderNumber: text("O1"), Customer: 77, Product: "P", Quantity: one.Neg(), InvoicedOn: day},
		schemas.StockLevels:  &schemas.Stock{Product: "P", AvailableNow: one, Physical: &one, NextAvailableOn: &day, NextAvailableQuantity: &two},
	}
}

func recordTopics() (names []string) {
	for _, t := range schemas.Topics() {
		if t.Role == schemas.RoleReference || t.Role == schemas.RoleFact {
			names = append(names, t.Name)
		}
	}
	return names
}

// spoil calls try for each value in a record that can be spoiled, with its path, while it is spoiled.
func spoil(v reflect.Value, path string, try func(path string)) {
	set := func(bad any) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		v.Set(reflect.ValueOf(bad))
		try(path)
		v.Set(old)
	}
	switch at := v.Interface().(type) {
	case time.Time:
		set(time.Date(1899, 12, 31, 23, 59, 59, 0, time.UTC))
		set(time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC))
		return
	case decimal.Decimal:
		set(decimal.New(1, 28))
		set(decimal.New(1, -11))
		return
	case []byte:
		return
	case string:
		set(at + "\x00")
		set("\xff")
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			spoil(v.Elem(), path, try)
		}
	case reflect.Slice:
		for i := range v.Len() {
			spoil(v.Index(i), path+"[0]", try)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			spoil(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Tag.Get("avro"), "."), try)
		}
	}
}

func TestNothingThatCannotBeKeptPasses(t *testing.T) {
	records := goodRecords()
	for _, topic := range recordTopics() {
		t.Run(topic, func(t *testing.T) {
			record := records[topic]
			if got := validation.CheckRecord(topic, record); got != nil {
				t.Fatalf("a good record has defects: %+v", got)
			}
			spoiled := 0
			spoil(reflect.ValueOf(record).Elem(), "", func(path string) {
				spoiled++
				got := validation.CheckRecord(topic, record)
				if len(got) != 1 || got[0].Field != path || !strings.HasPrefix(got[0].Message, path+" ") {
					t.Errorf("%s is spoiled: %+v", path, got)
				}
			})
			if spoiled == 0 {
				t.Error("nothing was spoiled")
			}
			if got := validation.CheckRecord(topic, record); got != nil {
				t.Fatalf("the record was not mended: %+v", got)
			}
		})
	}
}

func TestRulesOfRecords(t *testing.T) {
	text := func(s string) *string { return &s }
	long := strings.Repeat("ä", 1001)
	for _, c := range []struct {
		name   string
		topic  string
		change func(r any)
		want   []string
	}{
		{"no id and no number", schemas.Accounts, func(r any) { *r.(*schemas.Account) = schemas.Account{} }, []string{"missing id", "missing number"}},
		{"blank", schemas.Units, func(r any) { r.(*schemas.Unit).ID, r.(*schemas.Unit).Name = " ", "\t" }, []string{"missing id", "missing name"}},
		{"a slash in the id", schemas.KPIs, func(r any) { r.(*schemas.KPI).ID = "a/b" }, nil},
		{"a long id", schemas.KPIs, func(r any) { r.(*schemas.KPI).ID = long }, []string{"out_of_range id"}},
		{"an id as long as may be", schemas.KPIs, func(r any) { r.(*schemas.KPI).ID = long[2:] }, nil},
		{"a blank id in a list", schemas.Accounts, func(r any) { r.(*schemas.Account).PaymentMediumTypes = &[]string{"T", ""} }, []string{"missing payment_medium_types[1]"}},
		{"lists that are not given", schemas.Accounts, func(r any) {
			r.(*schemas.Account).PaymentMediumTypes, r.(*schemas.Account).PaymentMediumBrands = nil, nil
		}, nil},
		{"empty optional texts", schemas.Invoices, func(r any) { r.(*schemas.Invoice).Number = text("") }, nil},
		{"a kind that is none", schemas.Classifications, func(r any) { r.(*schemas.Classification).Kind = "Web" }, []string{"invalid kind"}},
		{"no kind", schemas.Classifications, func(r any) { r.(*schemas.Classification).Kind = "" }, []string{"missing kind"}},
		{"customer 0", schemas.Customers, func(r any) { r.(*schemas.Customer).ID = 0 }, []string{"out_of_range id"}},
		{"an account number of ten characters", schemas.Customers, func(r any) { r.(*schemas.Customer).AccountNumber = text("ÄÖÜ4567890") }, nil},
		{"of eleven", schemas.Customers, func(r any) { r.(*schemas.Customer).AccountNumber = text("ÄÖÜ45678901") }, []string{"out_of_range account_number"}},
		{"a part number of 51 characters", schemas.CustomerParts, func(r any) { r.(*schemas.CustomerPart).PartNumber = long[:102] }, []string{"out_of_range part_number"}},
		{"a blank part number", schemas.CustomerParts, func(r any) { r.(*schemas.CustomerPart).PartNumber = " " }, []string{"missing part_number"}},
		{"a slash in a product", schemas.CustomerParts, func(r any) { r.(*schemas.CustomerPart).Product = "a/b" }, nil},
		{"a slash in a tenant", schemas.APIKeys, func(r any) { r.(*schemas.APIKey).Tenant = "a/b" }, []string{"invalid tenant"}},
		{"a line of nobody's", schemas.OrderLines, func(r any) { r.(*schemas.OrderLine).Customer = -1 }, []string{"out_of_range customer"}},
		{"the last day", schemas.InvoiceLines, func(r any) { r.(*schemas.InvoiceLine).InvoicedOn = time.Date(2261, 12, 31, 0, 0, 0, 0, time.UTC) }, nil},
		{"nothing in stock", schemas.StockLevels, func(r any) { *r.(*schemas.Stock) = schemas.Stock{Product: "P"} }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			record := goodRecords()[c.topic]
			c.change(record)
			var got []string
			for _, r := range validation.CheckRecord(c.topic, record) {
				got = append(got, r.Code+" "+r.Field)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestRecordsOfOtherTypesPanic(t *testing.T) {
	defer func() {
		if p, _ := recover().(string); p != "validation: *schemas.Sale is no record of sales" {
			t.Errorf("panic %q", p)
		}
	}()
	validation.CheckRecord(schemas.KindSales, &schemas.Sale{})
}
