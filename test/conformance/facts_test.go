package conformance

import (
	"slices"
	"time"

	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// today is the day from which the days of facts are counted. It stays what it was when the tests began: at midnight what transcripts expect
// must not change.
var today = time.Now().UTC().Truncate(24 * time.Hour)

// day is today and so many days.
func day(days int) time.Time { return today.AddDate(0, 0, days) }

func at(text string) time.Time {
	t, err := time.Parse(time.DateTime, text)
	if err != nil {
		panic(err)
	}
	return t
}

// putFacts gives tenants calls that sales match, and customers who bought something.
func putFacts(p *harness.Parts, tenants ...string) {
	var records []*kgo.Record
	call := func(id, startedAt, number, mhid string) *schemas.Call {
		c := &schemas.Call{ID: id, StartedAt: at(startedAt), Tags: []string{}, Campaign: new("Campaign of " + id)}
		if number != "" {
			c.CallerNumber = &number
		}
		if mhid != "" {
			c.MHID = &mhid
		}
		return c
	}
	pieces := decimal.NewFromInt
	for _, tenant := range tenants {
		records = append(records, harness.References(p, schemas.Calls, tenant,
			call("C-BOX", "2022-09-14 14:03:05", "07700900123", "DJGHF345"),
			call("C-NUMBER", "2022-08-17 09:12:31", "01234567890", ""),
			call("C-WITHHELD", "2022-09-20 08:30:00", "anonymous", ""),
			call("C-EMPTY", "2022-09-20 08:31:00", "", ""),
			call("C-LEAP", "2024-02-29 00:00:00", "", "LEAP"),
			call("C-EVENING", "2024-08-31 23:59:59", "", "EVENING"),
			call("C-SUMMER", "2023-03-26 00:30:00", "", "SUMMER"),
		)...)
		records = append(records, harness.References(p, schemas.Customers, tenant,
			&schemas.Customer{ID: 77, AccountNumber: new("ACME01")},
			&schemas.Customer{ID: 78, AccountNumber: new("1234")},
			&schemas.Customer{ID: 79, AccountNumber: new("NOTHING")},
		)...)
		products := []*schemas.Product{
			{ID: id("cal lamp"), Number: new(int64(9)), Code: "P-9", Description: new("Lamp"), Barcodes: []string{"501"}},
			{ID: id("cal desk"), Number: new(int64(4)), Code: "P-4", Description: new("Desk & \"chair\" <set>\x01"), Barcodes: []string{"401", "402"}},
			{ID: id("cal rug"), Number: new(int64(7)), Code: "P-7", Barcodes: []string{}},
			{ID: id("cal vase"), Number: new(int64(5)), Code: "P-5", Description: new("Vase"), Barcodes: []string{}},
		}
		records = append(records, harness.References(p, schemas.Products, tenant, products...)...)
		records = append(records, harness.References(p, schemas.CustomerParts, tenant,
			&schemas.CustomerPart{Customer: 77, Product: id("cal desk"), PartNumber: "ACME-D"},
			&schemas.CustomerPart{Customer: 78, Product: id("cal lamp"), PartNumber: "not 77's"},
		)...)
		// Customer 77 ordered a lamp long ago that was invoiced lately, desks of which some came back, a rug that all went back, and a vase.
		records = append(records, harness.References(p, schemas.OrderLines, tenant,
			&schemas.OrderLine{ID: "O1", Customer: 77, Product: id("cal lamp"), Quantity: pieces(3), OrderedOn: day(-400)},
			&schemas.OrderLine{ID: "O2", Customer: 77, Product: id("cal desk"), Quantity: pieces(6), OrderedOn: day(-50)},
			&schemas.OrderLine{ID: "O3", Customer: 77, Product: id("cal rug"), Quantity: pieces(2), OrderedOn: day(-40)},
			&schemas.OrderLine{ID: "O4", Customer: 77, Product: id("cal vase"), Quantity: pieces(1), OrderedOn: day(-4)},
			&schemas.OrderLine{ID: "O5", Customer: 78, Product: id("cal lamp"), Quantity: pieces(1), OrderedOn: day(-4)},
		)...)
		records = append(records, harness.References(p, schemas.InvoiceLines, tenant,
			&schemas.InvoiceLine{ID: "I1", Customer: 77, Product: id("cal lamp"), Quantity: pieces(3), InvoicedOn: day(-10)},
			&schemas.InvoiceLine{ID: "I2", Customer: 77, Product: id("cal desk"), Quantity: pieces(6), InvoicedOn: day(-45)},
			&schemas.InvoiceLine{ID: "I3", Customer: 77, Product: id("cal desk"), Quantity: pieces(-2), InvoicedOn: day(-20)},
			&schemas.InvoiceLine{ID: "I4", Customer: 77, Product: id("cal rug"), Quantity: pieces(2), InvoicedOn: day(-35)},
			&schemas.InvoiceLine{ID: "I5", Customer: 77, Product: id("cal rug"), Quantity: pieces(-2), InvoicedOn: day(-30)},
		)...)
		records = append(records, harness.References(p, schemas.StockLevels, tenant,
			&schemas.Stock{Product: id("cal lamp"), AvailableNow: pieces(40), NextAvailableOn: new(day(3))},
			&schemas.Stock{Product: id("cal desk"), AvailableNow: pieces(0), Physical: new(pieces(5)), NextAvailableOn: new(day(20))},
			&schemas.Stock{Product: id("cal vase"), AvailableNow: pieces(0)},
		)...)
	}
	for part := range slices.Chunk(records, 1000) {
		p.Produce(part...)
	}
}
