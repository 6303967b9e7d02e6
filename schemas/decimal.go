package schemas

import (
	"fmt"
	"math/big"

	"github.com/shopspring/decimal"
	"github.com/twmb/avro"
)

// Decimal is an exact decimal number: money and quantities never pass through a float.
type Decimal = decimal.Decimal

// Precision and scale of the decimals in our schemas: Avro bytes, decimal(38, 10).
const (
	DecimalPrecision = 38
	DecimalScale     = 10
)

// decimalLimit is the first unscaled value that no longer has DecimalPrecision digits.
var decimalLimit = new(big.Int).Exp(big.NewInt(10), big.NewInt(DecimalPrecision), nil)

// FitsDecimal reports whether d is exactly representable as decimal(38, 10). What does not fit is a defect, never rounded.
func FitsDecimal(d Decimal) bool {
	_, err := unscaled(d)
	return err == nil
}

// unscaled returns d × 10^DecimalScale, or an error where that is not an integer of at most DecimalPrecision digits. The exponent is
// checked first, so that a short text such as 1e999999999 costs nothing.
func unscaled(d Decimal) (*big.Int, error) {
	exp := int64(d.Exponent())
	coef := d.Coefficient()
	if coef.Sign() == 0 {
		return coef, nil
	}
	shift := exp + DecimalScale
	switch {
	case shift > DecimalPrecision:
		return nil, fmt.Errorf("%se%d does not fit decimal(%d, %d)", coef, exp, DecimalPrecision, DecimalScale)
	case shift >= 0:
		coef.Mul(coef, pow10(shift))
	default:
		if -shift > int64(len(coef.Text(10))) {
			return nil, fmt.Errorf("decimal has more than %d fraction digits", DecimalScale)
		}
		var rest big.Int
		coef.QuoRem(coef, pow10(-shift), &rest)
		if rest.Sign() != 0 {
			return nil, fmt.Errorf("decimal has more than %d fraction digits", DecimalScale)
		}
	}
	if coef.CmpAbs(decimalLimit) >= 0 {
		return nil, fmt.Errorf("decimal has more than %d digits before the point", DecimalPrecision-DecimalScale)
	}
	return coef, nil
}

func pow10(n int64) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil)
}

// decimalType converts between Decimal and the two's complement bytes of Avro's decimal logical type.
var decimalType = avro.NewCustomType("decimal",
	func(d Decimal, _ *avro.SchemaNode) ([]byte, error) {
		n, err := unscaled(d)
		if err != nil {
			return nil, err
		}
		return twosComplement(n), nil
	},
	func(b []byte, n *avro.SchemaNode) (Decimal, error) {
		return DecimalFromBytes(b, int32(n.Scale)), nil
	})

// DecimalFromBytes reads Avro's decimal bytes (big-endian two's complement, any length) with the given scale.
func DecimalFromBytes(b []byte, scale int32) Decimal {
	if len(b) <= 8 {
		var n int64
		if len(b) > 0 && b[0]&0x80 != 0 {
			n = -1
		}
		for _, c := range b {
			n = n<<8 | int64(c)
		}
		return decimal.New(n, -scale)
	}
	n := new(big.Int).SetBytes(b)
	if b[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
	}
	return decimal.NewFromBigInt(n, -scale)
}

// twosComplement is the shortest big-endian two's complement form of n.
func twosComplement(n *big.Int) []byte {
	if n.Sign() >= 0 {
		b := n.Bytes()
		if len(b) == 0 || b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return b
	}
	length := uint(new(big.Int).Not(n).BitLen()/8 + 1)
	return new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), length*8)).FillBytes(make([]byte, length))
}
