package load

import (
	"context"
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
)

// producer encodes records. It is for one goroutine.
type producer struct {
	tenant   string
	encoders map[string]*schemas.Encoder
}

func newProducer(t testing.TB, p *harness.Parts, tenant string) *producer {
	t.Helper()
	made := &producer{tenant, map[string]*schemas.Encoder{}}
	for _, topic := range schemas.Topics() {
		if topic.Role != schemas.RoleItem && topic.Role != schemas.RoleFact && topic.Name != schemas.Accounts {
			continue
		}
		encoder, err := p.Registry.Encoder(t.Context(), topic.Name)
		if err != nil {
			t.Fatal(err)
		}
		made.encoders[topic.Name] = encoder
	}
	return made
}

func (p *producer) encode(topic string, v any) []byte {
	value, err := p.encoders[topic].Append(nil, v)
	if err != nil {
		panic(err) // our own types
	}
	return value
}

// record makes a record of a topic that the dice choose: an item as an upstream system sends it, a fact, or an account of its own, which has the
// name. Facts have few ids, and one in twenty deletes, but calls, so that it stays plain which call a sale must be matched to.
func (p *producer) record(name string, r dice) *kgo.Record {
	fact := func(topic, id string, v any) *kgo.Record {
		rec := &kgo.Record{Topic: topic, Key: schemas.ReferenceKey(p.tenant, id)}
		if topic == schemas.Calls || r.IntN(20) > 0 {
			rec.Value = p.encode(topic, v)
		}
		return rec
	}
	switch r.IntN(10) {
	case 0, 1:
		user, sku, by := fmt.Sprintf("User-%d", r.IntN(users)), fmt.Sprintf("sku-%d", r.IntN(products)), int64(r.IntN(5)-1)
		return &kgo.Record{Topic: schemas.KindOwnership, Value: p.encode(schemas.KindOwnership, &schemas.Ownership{UserName: &user, ProductSKU: &sku, IncreaseQuantityBy: &by})}
	case 2:
		s := sale(r)
		if id := saleID(r.IntN(sales)); r.IntN(5) > 0 {
			s.ID = &id
		}
		if r.IntN(20) == 0 {
			s.Date = nil // refused by the engine
		}
		return &kgo.Record{Topic: schemas.KindSales, Value: p.encode(schemas.KindSales, s)}
	case 3:
		amount, code := decimal.New(int64(r.IntN(10000)), -2), []string{"", "A", "B", "C"}[r.IntN(4)]
		return &kgo.Record{Topic: schemas.KindTransactions, Value: p.encode(schemas.KindTransactions, &schemas.Transaction{TransactionID: &code, TransactionAmount: &amount})}
	case 4:
		c := call(r.IntN(calls), r)
		return fact(schemas.Calls, c.ID, c)
	case 5:
		l := &schemas.OrderLine{
			ID: fmt.Sprintf("line-%d", r.IntN(lines)), Customer: int64(1 + r.IntN(customers)), Product: fmt.Sprintf("P-%d", r.IntN(products)),
			Quantity: decimal.New(int64(r.IntN(20)-5), 0), OrderedOn: firstCall.AddDate(0, 0, r.IntN(90)),
		}
		return fact(schemas.OrderLines, l.ID, l)
	case 6:
		l := &schemas.InvoiceLine{
			ID: fmt.Sprintf("line-%d", r.IntN(lines)), Customer: int64(1 + r.IntN(customers)), Product: fmt.Sprintf("P-%d", r.IntN(products)),
			Quantity: decimal.New(int64(r.IntN(20)-5), 0), InvoicedOn: firstCall.AddDate(0, 0, r.IntN(90)),
		}
		return fact(schemas.InvoiceLines, l.ID, l)
	case 7:
		return &kgo.Record{Topic: schemas.Accounts, Key: schemas.ReferenceKey(p.tenant, name), Value: p.encode(schemas.Accounts, &schemas.Account{ID: name, Number: "new " + name})}
	case 8:
		performed, website, number, unit := firstCall, "www.example.org", account(r.IntN(accounts*10/9)), "Unit"
		return &kgo.Record{Topic: schemas.KindCustomerEvents, Value: p.encode(schemas.KindCustomerEvents, &schemas.CustomerEvent{
			Kind: schemas.EventWeb, Account: &schemas.AccountIdentifier{Number: &number}, Website: &website,
			EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: &unit}, PerformedOn: &performed},
		})}
	default:
		physical := decimal.New(int64(r.IntN(100)), 0)
		s := &schemas.Stock{Product: fmt.Sprintf("P-%d", r.IntN(products)), AvailableNow: decimal.New(int64(r.IntN(100)), -1), Physical: &physical}
		return fact(schemas.StockLevels, s.Product, s)
	}
}

// firstCall is when the first of the calls started.
var firstCall = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// call is one of the calls. What sales are matched by is always the same, its campaign is not.
func call(i int, r dice) *schemas.Call {
	mhid, number, campaign := fmt.Sprintf("M-%d", i%visitors), callerNumber(i%callers), fmt.Sprintf("campaign %d", r.IntN(1000))
	return &schemas.Call{
		ID: fmt.Sprintf("call-%d", i), StartedAt: firstCall.Add(time.Duration(i) * 7 * time.Hour), CallerNumber: &number, MHID: &mhid, Campaign: &campaign, Tags: []string{},
	}
}

// callerNumber is a number that is kept for examples, in one of the forms in which people write it.
func callerNumber(i int) string {
	return fmt.Sprintf([]string{"+44 7700 900%03d", "07700900%03d", "447700900%03d"}[i%3], i)
}

// produce writes records straight to Kafka, in groups, to any partition: those of an item's key are forwarded, and of a fact's records the
// last one counts wherever it lies.
func (l *Load) produce(ctx context.Context, p *producer, r dice) {
	for n := 0; ctx.Err() == nil; n++ {
		var records []*kgo.Record
		markers := map[*kgo.Record]string{} // the results come in the order of the partitions' answers
		for i := range r.upTo(20) {
			marker := fmt.Sprintf("%s-kafka-%d-%d", l.name, n, i)
			rec := p.record(marker, r)
			ref := checker.Mark(marker, 0)
			env := schemas.Envelope{Tenant: l.tenant, Reply: -1, Ref: &ref}
			rec.Partition, rec.Headers = r.Int32N(l.n), env.Headers(nil)
			switch {
			case rec.Topic == schemas.Accounts:
				rec.Partition = 0
			case rec.Key == nil && r.IntN(3) == 0:
				// As librdkafka places it: of one key all go to one partition, which is not where we look for it.
				rec.Key = fmt.Append(nil, r.IntN(users))
				rec.Partition = int32(crc32.ChecksumIEEE(rec.Key) % uint32(l.n))
			}
			if r.IntN(50) == 0 {
				spoil(rec, r)
			} else {
				markers[rec] = marker
			}
			records = append(records, rec)
		}
		call, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		for _, res := range l.kafka.ProduceSync(call, records...) {
			if markers[res.Record] == "" {
				l.noteUnreadable(res)
				continue
			}
			s := checker.Sent{Marker: markers[res.Record], Items: 1, Verdict: harness.Accepted}
			if res.Err != nil {
				s.Verdict = harness.Unknown
			}
			l.note(s, map[bool]string{true: "produced", false: "not produced"}[res.Err == nil])
		}
		cancel()
		time.Sleep(50 * time.Millisecond)
	}
}

// spoil makes a record one that nobody can read.
func spoil(rec *kgo.Record, r dice) {
	switch {
	case r.IntN(3) == 0 || rec.Topic == schemas.Accounts: // what accounts hold is not looked into by the checker
		rec.Headers = rec.Headers[1:] // the tenant's
	case len(rec.Value) == 0 || r.IntN(2) == 0:
		rec.Value = []byte("not Avro")
	default:
		rec.Value = rec.Value[:6+r.IntN(2)] // the schema's id and next to nothing
	}
}

func (l *Load) noteUnreadable(res kgo.ProduceResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if res.Err == nil {
		l.unreadable = append(l.unreadable, checker.Position{Topic: res.Record.Topic, Partition: res.Record.Partition, Offset: res.Record.Offset})
		l.why["unreadable"]++
	}
}
