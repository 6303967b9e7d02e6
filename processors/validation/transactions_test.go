package validation

import (
	"math/big"
	oldrand "math/rand"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/ruletest"
)

func transaction() *schemas.Transaction {
	amount := func(s string) *schemas.Decimal { return new(decimal.RequireFromString(s)) }
	return &schemas.Transaction{
		BeeNumberCustomer: amount("100200"), TransactionCode: new("INV"), TransactionAmount: amount("-12.50"), TransactionBillSeq: new("7"),
		TransactionTime: new(time.Date(2015, 3, 2, 10, 15, 0, 123_456_700, time.UTC)), TransactionID: new("T1"), Campaign: new("C01"),
		RetailSalesAmount: amount("7.9228162514264337593543950335"), TaxRate: amount("0.13"), NetSalesAmount: amount("-11.06"),
	}
}

// TestNetDecimals compares the check with the definition: some integer of 96 bits over some power of ten up to 28 is the same number.
func TestNetDecimals(t *testing.T) {
	limit := new(big.Int).Lsh(big.NewInt(1), 96)
	allowed := func(d schemas.Decimal) bool {
		for scale := range 29 {
			shifted := new(big.Rat).Mul(d.Rat(), new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)))
			if shifted.IsInt() && shifted.Num().CmpAbs(limit) < 0 {
				return true
			}
		}
		return false
	}
	r := rand.New(rand.NewPCG(7, 7))
	yes := 0
	const n = 20_000
	for range n {
		c := new(big.Int).Rand(random(r), new(big.Int).Lsh(big.NewInt(1), uint(1+r.IntN(110))))
		if r.IntN(4) == 0 {
			c.Sub(limit, big.NewInt(int64(r.IntN(3))))
		}
		if r.IntN(2) == 0 {
			c.Mul(c, new(big.Int).Exp(big.NewInt(10), big.NewInt(r.Int64N(40)), nil))
		}
		if r.IntN(2) == 0 {
			c.Neg(c)
		}
		d := decimal.NewFromBigInt(c, int32(r.IntN(60)-52))
		got, want := isNetDecimal(d), allowed(d)
		if got != want {
			t.Fatalf("%s × 10^%d: %v, want %v", d.Coefficient(), d.Exponent(), got, want)
		}
		if got {
			yes++
		}
	}
	if yes < n/10 || yes > n*9/10 {
		t.Errorf("%d of %d numbers are decimals: the test looks at one side only", yes, n)
	}
}

// TestNetDecimalsFit: what passes the check can be written.
func TestNetDecimalsFit(t *testing.T) {
	for _, s := range []string{"79228162514264337593543950335", "-79228162514264337593543950335", "7.9228162514264337593543950335", "1e28", "-0.0000000000000000000000000001"} {
		tr := transaction()
		tr.BonusAmount = new(decimal.RequireFromString(s))
		if reasons := CheckTransaction(tr); reasons != nil {
			t.Errorf("%s: %v", s, reasons)
		}
		data, err := schemas.TransactionSchema.Avro().AppendEncode(nil, tr)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		var back schemas.Transaction
		if _, err := schemas.TransactionSchema.Avro().Decode(data, &back); err != nil || !back.BonusAmount.Equal(*tr.BonusAmount) || !back.TransactionTime.Equal(*tr.TransactionTime) {
			t.Errorf("%s comes back as %s, %s (%v)", s, back.BonusAmount, back.TransactionTime, err)
		}
		if reasons := CheckTransaction(&back); reasons != nil {
			t.Errorf("%s, with the digits of the schema: %v", s, reasons)
		}
	}
}

// random makes a source for math/big, which knows the old kind only.
func random(r *rand.Rand) *oldrand.Rand { return oldrand.New(oldrand.NewSource(r.Int64())) }

// FuzzTransaction is FuzzEvent for transactions.
func FuzzTransaction(f *testing.F) {
	for _, t := range []*schemas.Transaction{{}, transaction()} {
		data, err := schemas.TransactionSchema.Avro().AppendEncode(nil, t)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var tr schemas.Transaction
		if _, err := schemas.TransactionSchema.Avro().Decode(data, &tr); err != nil {
			t.Skip()
		}
		if reasons := CheckTransaction(&tr); len(reasons) > 0 {
			ruletest.CheckReasons(t, reasons)
			return
		}
		if _, err := schemas.TransactionProcessedSchema.Avro().AppendEncode(nil, &schemas.TransactionProcessed{Item: tr}); err != nil {
			t.Errorf("the outcome cannot be written: %v", err)
		}
	})
}

func BenchmarkTransaction(b *testing.B) {
	t := transaction()
	b.ReportAllocs()
	for b.Loop() {
		if CheckTransaction(t) != nil {
			b.Fatal("defects")
		}
	}
}
