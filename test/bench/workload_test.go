package bench

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// The load: one tenant, 10,000 accounts, 1,000 products, 10 units. Customer events are purchases with two lines and web events in turn.
// Ownership changes are of 50,000 users, each with up to 20 products.
const (
	tenant     = "bench"
	accounts   = 10_000
	products   = 1000
	units      = 10
	users      = 50_000
	partitions = 4    // of `up` and of the harness's cluster
	run        = 1000 // records that go to one partition before the next one gets some, as a producer batches them
)

func hexID(kind, i int) string         { return fmt.Sprintf("%08X%024X", kind, i) }
func accountNumber(i int) string       { return fmt.Sprintf("ACR%010d", i%accounts) }
func productCode(i int) string         { return fmt.Sprintf("PRODUCT-%04d", i%products) }
func unitName(i int) string            { return fmt.Sprintf("Unit %d", i%units) }
func performedOn(i int) time.Time      { return time.Date(2024, 1, 1, 0, 0, i%(365*86400), 0, time.UTC) }
func amount(cents int) decimal.Decimal { return decimal.New(int64(cents), -2) }

func putReferences(p *harness.Parts) {
	all := make([]*schemas.Account, accounts)
	for i := range all {
		all[i] = &schemas.Account{ID: hexID(1, i), Number: accountNumber(i), Name: new(fmt.Sprintf("Account %d", i))}
	}
	p.Produce(harness.References(p, schemas.Accounts, tenant, all...)...)
	goods := make([]*schemas.Product, products)
	for i := range goods {
		goods[i] = &schemas.Product{ID: hexID(2, i), Code: productCode(i), Barcodes: []string{}}
	}
	p.Produce(harness.References(p, schemas.Products, tenant, goods...)...)
	places := make([]*schemas.Unit, units)
	for i := range places {
		places[i] = &schemas.Unit{ID: hexID(3, i), Name: unitName(i), CurrencyID: new(hexID(4, 0)), CurrencyCode: new("EUR")}
	}
	p.Produce(harness.References(p, schemas.Units, tenant, places...)...)
}

// bare are the headers that an upstream producer sets.
func bare(i int) []kgo.RecordHeader {
	e := schemas.Envelope{Tenant: tenant, Reply: -1, Attempt: 1, Ref: new(fmt.Sprint(i))}
	return e.Headers(nil)
}

func event(i int) *schemas.CustomerEvent {
	at := performedOn(i)
	e := &schemas.CustomerEvent{
		Kind:        schemas.EventWeb,
		Account:     &schemas.AccountIdentifier{Number: new(accountNumber(i * 7))},
		EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: new(unitName(i))}, PerformedOn: &at},
	}
	if i%2 == 1 {
		e.Website = new("www.example.com")
		return e
	}
	e.Kind = schemas.EventPurchase
	e.ReferenceNumber = new(fmt.Sprintf("RF%08d", i))
	e.Products = &[]schemas.PurchaseLine{line(i), line(i * 3)}
	return e
}

func line(i int) schemas.PurchaseLine {
	net := 100 + i%10_000
	return schemas.PurchaseLine{
		Product: &schemas.ProductIdentifier{Code: new(productCode(i))}, Quantity: new(decimal.New(1, 0)),
		NetAmount: new(amount(net)), VATAmount: new(amount(net / 5)), TotalAmount: new(amount(net + net/5)),
	}
}

// eventRecords are n customer events as an upstream producer sends them.
func eventRecords(p *harness.Parts, n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{
			Topic: schemas.KindCustomerEvents, Partition: int32(i/run) % partitions, Headers: bare(i), Value: p.Encode(schemas.KindCustomerEvents, event(i)),
		}
	}
	return records
}

// ownershipRecords are n grants as an upstream producer sends them that partitions by the documented key.
func ownershipRecords(p *harness.Parts, n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		item := &schemas.Ownership{
			UserName: new(fmt.Sprintf("User%06d", i%users)), ProductSKU: new(fmt.Sprintf("APP-%02d", i/users%20)),
			Source: new("AD"), HasProduct: new(true), IncreaseQuantityBy: new(int64(1)), Clear: []string{},
		}
		key := upserts.Key(tenant, item)
		records[i] = &kgo.Record{
			Topic: schemas.KindOwnership, Key: key, Partition: schemas.Partition(key, partitions), Headers: bare(i), Value: p.Encode(schemas.KindOwnership, item),
		}
	}
	return records
}

// outcomeRecords are n processed customer events as the processors write them.
func outcomeRecords(p *harness.Parts, n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		item := event(i)
		partition, offset := int32(i/run)%partitions, int64(i)
		value := &schemas.EventProcessed{Item: *item, EventResult: schemas.EventResult{
			Outcome: schemas.Outcome{
				Tenant: tenant, ID: schemas.BareItemID(schemas.KindCustomerEvents, 0, partition, offset), Attempt: 1, Ref: new(fmt.Sprint(i)),
				SourceTopic: schemas.KindCustomerEvents, SourcePartition: partition, SourceOffset: offset, AcceptedAt: performedOn(i), JudgedAt: performedOn(i),
			},
			Kind: item.Kind, Number: int64(i), AccountID: new(hexID(1, i*7%accounts)), AccountNumber: new(accountNumber(i * 7)),
			UnitID: hexID(3, i%units), CurrencyCode: new("EUR"), LineProductIDs: []string{}, KPIIDs: []string{},
		}}
		if item.Products != nil {
			value.LineProductIDs = []string{hexID(2, i%products), hexID(2, i*3%products)}
		}
		topic := schemas.ProcessedTopic(schemas.KindCustomerEvents)
		records[i] = &kgo.Record{Topic: topic, Partition: partition, Headers: bare(i), Value: p.Encode(topic, value)}
	}
	return records
}

// headerRecords are n batch headers: nine plain fields, some 110 bytes.
func headerRecords(p *harness.Parts, n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: schemas.Batches, Value: p.Encode(schemas.Batches, &schemas.BatchHeader{
			Tenant: tenant, Key: schemas.NewBatchKey(), Kind: schemas.KindCustomerEvents, ItemKind: new(schemas.EventWeb), Door: "crm.com",
			KeyID: "abcdef", Items: int32(i % 1000), ReplyPartition: int32(i % partitions), Ref: new(fmt.Sprint(i)), AcceptedAt: performedOn(i),
		})}
	}
	return records
}

// crmCall is the body of a CRM.COM call with rows of a kind of events.
func crmCall(token, kind string, first, rows int) []byte {
	set := make([]map[string]any, rows)
	for j := range set {
		i := first + j
		row := map[string]any{
			"request_unique_identifier":      fmt.Sprint(j),
			"accounts_receivable_identifier": map[string]any{"number": accountNumber(i * 7)},
			"performed_by_unit_identifier":   map[string]any{"name": unitName(i)},
			"performed_on":                   performedOn(i).Format("2006-01-02T15:04:05"),
		}
		if kind == "web" {
			row["website"] = "www.example.com"
		} else {
			row["reference_number"] = fmt.Sprintf("RF%08d", i)
			row["products_set"] = []map[string]any{crmLine(i), crmLine(i * 3)}
		}
		set[j] = row
	}
	member := map[string]string{"web": "web_customer_events_set", "purchases": "purchase_customer_events_set"}[kind]
	body, err := json.Marshal(map[string]any{"token": token, member: set})
	if err != nil {
		panic(err) // maps of texts and numbers
	}
	return body
}

func crmLine(i int) map[string]any {
	l := line(i)
	return map[string]any{
		"product_identifier": map[string]any{"code": *l.Product.Code}, "quantity": 1,
		"net_amount": json.Number(l.NetAmount.String()), "vat_amount": json.Number(l.VATAmount.String()), "total_amount": json.Number(l.TotalAmount.String()),
	}
}
