package defects

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// TestDecimalAgreesWithTheCodec holds the short cut for everyday exponents against the exact answer, on both sides of each bound.
func TestDecimalAgreesWithTheCodec(t *testing.T) {
	for exp := int32(-14); exp <= 30; exp++ {
		for _, digits := range []int{1, 5, 16, 17, 27, 28, 29, 37, 38, 39, 100} {
			nines := pow10(digits)
			for _, coef := range []*big.Int{new(big.Int).Sub(nines, big.NewInt(1)), nines, big.NewInt(0)} {
				for _, d := range []decimal.Decimal{decimal.NewFromBigInt(coef, exp), decimal.NewFromBigInt(coef, exp).Neg()} {
					var l List
					l.Decimal("amount", &d)
					if fits := len(l.Reasons()) == 0; fits != schemas.FitsDecimal(d) {
						t.Errorf("%se%d: fits is %v", coef, exp, fits)
					}
				}
			}
		}
	}
}

func TestHugeDecimalsAreRefusedQuickly(t *testing.T) {
	d := decimal.NewFromBigInt(new(big.Int).Lsh(big.NewInt(1), 8<<20), -schemas.DecimalScale)
	begun := time.Now()
	var l List
	l.Decimal("amount", &d)
	if len(l.Reasons()) != 1 {
		t.Error("a number of a megabyte fits")
	}
	if took := time.Since(begun); took > 500*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

func TestQuoteIsShortAndReadable(t *testing.T) {
	for in, want := range map[string]string{
		"":                       `""`,
		`O'Brien "x" <&>`:        `"O'Brien "x" <&>"`,
		"a\x00\xffb":             "\"a\ufffd\ufffdb\"",
		strings.Repeat("é", 100): `"` + strings.Repeat("é", 100) + `"`,
		strings.Repeat("é", 101): `"` + strings.Repeat("é", 100) + `…"`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("Quote(%q) is %s", in, got)
		}
	}
}
