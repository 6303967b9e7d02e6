package validation

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/ruletest"
)

func TestRules(t *testing.T) {
	ruletest.Run(t, "testdata/*.txt", func() ruletest.World { return newWorld() })
}

// world holds one tenant's reference records, found by each of their identifiers, and the referrals so far.
type world struct {
	found    map[string]any // by type, member and value
	referred map[string]*schemas.ReferralState
}

func newWorld() *world {
	return &world{found: map[string]any{}, referred: map[string]*schemas.ReferralState{}}
}

func (w *world) Row(table string) any {
	switch table {
	case schemas.Accounts:
		return &schemas.Account{}
	case schemas.Participants:
		return &schemas.Participant{}
	case schemas.Units:
		return &schemas.Unit{}
	case schemas.Classifications:
		return &schemas.Classification{}
	case schemas.Products:
		return &schemas.Product{}
	case schemas.PaymentMediumTypes:
		return &schemas.PaymentMediumType{}
	case schemas.PaymentMediumBrands:
		return &schemas.PaymentMediumBrand{}
	case schemas.KPIs:
		return &schemas.KPI{}
	case schemas.Invoices:
		return &schemas.Invoice{}
	}
	return nil
}

func (w *world) Load(row any) {
	row.(schemas.Reference).Identifiers(func(field, value string) { w.found[place(row, field, value)] = row })
}

func place(row any, field, value string) string {
	if field == "id" {
		value = schemas.Fold(value)
	}
	return fmt.Sprintf("%T %s %s", row, field, value)
}

func (w *world) Item(typ string) any {
	switch typ {
	case "event":
		return &schemas.CustomerEvent{}
	case "referral":
		return &schemas.Referral{}
	case "transaction":
		return &schemas.Transaction{}
	}
	return nil
}

func (w *world) Judge(item any) (any, []schemas.Reason) {
	switch it := item.(type) {
	case *schemas.CustomerEvent:
		if reasons := CheckEvent(it); len(reasons) > 0 {
			return nil, reasons
		}
		res, reasons := DecideEvent("demo", it, w)
		return &res, reasons
	case *schemas.Referral:
		if reasons := CheckReferral(it); len(reasons) > 0 {
			return nil, reasons
		}
		res, next, reasons := DecideReferral("demo", it, w, func(id string) *schemas.ReferralState { return w.referred[id] })
		if next != nil {
			w.referred[next.ReferredID] = next
		}
		return &res, reasons
	case *schemas.Transaction:
		return it, CheckTransaction(it)
	}
	return nil, nil
}

func find[T any](w *world, tenant, field, value string) *T {
	row, _ := w.found[place(new(T), field, value)].(*T)
	if tenant != "demo" {
		return nil
	}
	return row
}

func (w *world) Account(tenant, field, value string) *schemas.Account {
	return find[schemas.Account](w, tenant, field, value)
}
func (w *world) Participant(tenant, field, value string) *schemas.Participant {
	return find[schemas.Participant](w, tenant, field, value)
}
func (w *world) Unit(tenant, field, value string) *schemas.Unit {
	return find[schemas.Unit](w, tenant, field, value)
}
func (w *world) Classification(tenant, field, value string) *schemas.Classification {
	return find[schemas.Classification](w, tenant, field, value)
}
func (w *world) Product(tenant, field, value string) *schemas.Product {
	return find[schemas.Product](w, tenant, field, value)
}
func (w *world) PaymentMediumType(tenant, field, value string) *schemas.PaymentMediumType {
	return find[schemas.PaymentMediumType](w, tenant, field, value)
}
func (w *world) PaymentMediumBrand(tenant, field, value string) *schemas.PaymentMediumBrand {
	return find[schemas.PaymentMediumBrand](w, tenant, field, value)
}
func (w *world) KPI(tenant, field, value string) *schemas.KPI {
	return find[schemas.KPI](w, tenant, field, value)
}
func (w *world) Invoice(tenant, field, value string) *schemas.Invoice {
	return find[schemas.Invoice](w, tenant, field, value)
}

// TestNobodyIsReferredTwice refers random participants, named at random by id or number in either case, and holds the outcomes against a
// plain list of who was referred.
func TestNobodyIsReferredTwice(t *testing.T) {
	const people = 12
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := newWorld()
		w.Load(&schemas.Unit{ID: "U1", Name: "Unit"})
		for i := range people {
			w.Load(&schemas.Participant{ID: fmt.Sprintf("AB%02d", i), Number: fmt.Sprintf("RP%02d", i)})
		}
		person := func(i int) *schemas.ParticipantIdentifier {
			switch r.IntN(3) {
			case 0:
				return &schemas.ParticipantIdentifier{ID: new(fmt.Sprintf("AB%02d", i))}
			case 1:
				return &schemas.ParticipantIdentifier{ID: new(fmt.Sprintf("ab%02d", i))}
			default:
				return &schemas.ParticipantIdentifier{Number: new(fmt.Sprintf("RP%02d", i))}
			}
		}
		var referred []int
		for step := range 80 {
			who, by := r.IntN(people+1), r.IntN(people+1) // one of them is not known
			it := &schemas.Referral{Referred: person(who), ReferredBy: person(by)}
			it.Unit, it.PerformedOn = &schemas.Identifier{ID: new("U1")}, new(time.Unix(0, 0))
			var want []string
			if who == people {
				want = append(want, schemas.CodeNotFound)
			}
			if by == people {
				want = append(want, schemas.CodeNotFound)
			}
			if who == by && who < people {
				want = append(want, schemas.CodeSelfReferral)
			}
			for _, before := range referred {
				if before == who {
					want = append(want, schemas.CodeAlreadyReferred)
				}
			}
			_, reasons := w.Judge(it)
			var got []string
			for _, reason := range reasons {
				got = append(got, reason.Code)
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Fatalf("seed %d, step %d: %d referred by %d after %v: got %v, want %v", seed, step, who, by, referred, got, want)
			}
			if want == nil {
				referred = append(referred, who)
			}
		}
	}
}

func TestReasonsAreBounded(t *testing.T) {
	w := newWorld()
	lines := make([]schemas.PurchaseLine, 5000)
	e := purchase()
	e.Products = &lines
	reasons := CheckEvent(e)
	ruletest.CheckReasons(t, reasons)
	if last := reasons[len(reasons)-1]; last.Message != "The item has 19901 more defects, which are not listed." || last.Field != "" {
		t.Errorf("the last reason is %+v", last)
	}
	for i := range lines {
		lines[i] = (*purchase().Products)[0]
	}
	_, reasons = DecideEvent("demo", e, w)
	ruletest.CheckReasons(t, reasons)
	if last := reasons[len(reasons)-1]; last.Code != schemas.CodeNotFound || last.Message != "The item has 4903 more defects, which are not listed." {
		t.Errorf("the last reason is %+v", last)
	}
}

func purchase() *schemas.CustomerEvent {
	amount := func(cents int64) *schemas.Decimal { return new(decimal.New(cents*100_000_000, -10)) }
	return &schemas.CustomerEvent{
		Kind:    schemas.EventPurchase,
		Account: &schemas.AccountIdentifier{Number: new("ACR1")},
		EventCommon: schemas.EventCommon{
			Unit:        &schemas.Identifier{Name: new("Admin Unit")},
			PerformedOn: new(time.Date(2016, 6, 22, 15, 0, 0, 0, time.UTC)),
			Description: new("a purchase"),
		},
		ReferenceNumber:  new("RF01"),
		IntendedCurrency: &schemas.CurrencyIdentifier{Code: new("EUR")},
		Products: &[]schemas.PurchaseLine{
			{Product: &schemas.ProductIdentifier{Code: new("Serendipity")}, NetAmount: amount(5000), VATAmount: amount(1000), TotalAmount: amount(6000)},
			{Product: &schemas.ProductIdentifier{Code: new("Serendipity")}, NetAmount: amount(16000), VATAmount: amount(2000), TotalAmount: amount(18000)},
		},
	}
}

// known finds one record of each kind whatever the identifier, at no cost.
type known struct {
	*world
	account *schemas.Account
	unit    *schemas.Unit
	product *schemas.Product
}

func (k *known) Account(_, _, _ string) *schemas.Account { return k.account }
func (k *known) Unit(_, _, _ string) *schemas.Unit       { return k.unit }
func (k *known) Product(_, _, _ string) *schemas.Product { return k.product }

func BenchmarkPurchase(b *testing.B) {
	e := purchase()
	refs := &known{account: &schemas.Account{ID: "A1"}, unit: &schemas.Unit{ID: "U1", CurrencyCode: new("EUR")}, product: &schemas.Product{ID: "P1"}}
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if CheckEvent(e) != nil {
				b.Fatal("defects")
			}
		}
	})
	b.Run("decide", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, reasons := DecideEvent("demo", e, refs); reasons != nil {
				b.Fatal(reasons)
			}
		}
	})
}

// FuzzEvent feeds what any producer could send. Nothing may panic, reasons must be writable, and so must the outcome of what passes.
func FuzzEvent(f *testing.F) {
	w := newWorld()
	w.Load(&schemas.Account{ID: "A1", Number: "ACR1"})
	w.Load(&schemas.Unit{ID: "U1", Name: "Admin Unit", CurrencyCode: new("EUR")})
	w.Load(&schemas.Product{ID: "P1", Code: "Serendipity"})
	for _, kind := range []string{schemas.EventPurchase, schemas.EventAchievement, schemas.EventSocialMedia, schemas.EventWeb,
		schemas.EventFinancialAchievement, schemas.EventFinancialStatement, schemas.EventReferral} {
		e := purchase()
		e.Kind, e.SocialMedia, e.Profile, e.Action, e.Website = kind, new("FACEBOOK"), new("p"), new("LIKE"), new("w")
		e.Measures = &[]schemas.Measure{{KPI: &schemas.Identifier{Name: new("K")}, Value: new(decimal.New(1, 0))}}
		for range 2 {
			data, err := schemas.CustomerEventSchema.Avro().AppendEncode(nil, e)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
			e.Classification = &schemas.Identifier{Name: new("C")}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e schemas.CustomerEvent
		if _, err := schemas.CustomerEventSchema.Avro().Decode(data, &e); err != nil {
			t.Skip()
		}
		if reasons := CheckEvent(&e); len(reasons) > 0 {
			ruletest.CheckReasons(t, reasons)
			return
		}
		res, reasons := DecideEvent("demo", &e, w)
		if len(reasons) > 0 {
			ruletest.CheckReasons(t, reasons)
			return
		}
		if _, err := schemas.EventProcessedSchema.Avro().AppendEncode(nil, &schemas.EventProcessed{EventResult: res, Item: e}); err != nil {
			t.Errorf("the outcome cannot be written: %v", err)
		}
	})
}

// FuzzReferral is FuzzEvent for referrals.
func FuzzReferral(f *testing.F) {
	w := newWorld()
	w.Load(&schemas.Unit{ID: "U1", Name: "Admin Unit"})
	w.Load(&schemas.Participant{ID: "P1", Number: "RP1"})
	w.Load(&schemas.Participant{ID: "P2", Number: "RP2"})
	r := &schemas.Referral{Referred: &schemas.ParticipantIdentifier{ID: new("P1")}, ReferredBy: &schemas.ParticipantIdentifier{Number: new("RP2")}, EventCommon: purchase().EventCommon}
	data, err := schemas.ReferralSchema.Avro().AppendEncode(nil, r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var r schemas.Referral
		if _, err := schemas.ReferralSchema.Avro().Decode(data, &r); err != nil {
			t.Skip()
		}
		if reasons := CheckReferral(&r); len(reasons) > 0 {
			ruletest.CheckReasons(t, reasons)
			return
		}
		res, next, reasons := DecideReferral("demo", &r, w, func(string) *schemas.ReferralState { return nil })
		if len(reasons) > 0 {
			ruletest.CheckReasons(t, reasons)
			return
		}
		if next == nil {
			t.Error("a referral leaves nothing behind")
		}
		if _, err := schemas.ReferralProcessedSchema.Avro().AppendEncode(nil, &schemas.ReferralProcessed{ReferralResult: res, Item: r}); err != nil {
			t.Errorf("the outcome cannot be written: %v", err)
		}
	})
}
