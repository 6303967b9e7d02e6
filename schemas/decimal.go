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

// Precision and scale of the decimals of transactions, which hold every .NET decimal: 29 digits before the point and 28 after it.
const (
	TransactionPrecision = 57
	TransactionScale     = 28
)

// FitsDecimal reports whether d is exactly representable as decimal(38, 10). What does not fit is a defect, never rounded.
func FitsDecimal(d Decimal) bool { return FitsDecimalOf(d, DecimalPrecision, DecimalScale) }

// FitsDecimalOf is [FitsDecimal] for another precision and scale.
func FitsDecimalOf(d Decimal, precision, scale int32) bool {
	_, err := unscaled(d, int64(precision), int64(scale))
	return err == nil
}

// unscaled returns d × 10^scale, or an error where that is not an integer of at most precision digits. The exponent is checked first, so
// that a short text such as 1e999999999 costs nothing.
func unscaled(d Decimal, precision, scale int64) (*big.Int, error) {
	exp := int64(d.Exponent())
	coef := d.Coefficient()
	if coef.Sign() == 0 {
		return coef, nil
	}
	shift := exp + scale
	switch {
	case shift > precision:
		return nil, fmt.Errorf("%se%d does not fit decimal(%d, %d)", coef, exp, precision, scale)
	case shift >= 0:
		coef.Mul(coef, pow10(shift))
	default:
		if -shift > int64(len(coef.Text(10))) {
			return nil, fmt.Errorf("decimal has more than %d fraction digits", scale)
		}
		var rest big.Int
		coef.QuoRem(coef, pow10(-shift), &rest)
		if rest.Sign() != 0 {
			return nil, fmt.Errorf("decimal has more than %d fraction digits", scale)
		}
	}
	if coef.CmpAbs(pow10(precision)) >= 0 {
		return nil, fmt.Errorf("decimal has more than %d digits before the point", precision-scale)
	}
	return coef, nil
}

// powers are those of ten that a shift or a limit can need.
var powers = func() (p [TransactionPrecision + 1]*big.Int) {
	for i := range p {
		p[i] = new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(i)), nil)
	}
	return p
}()

// pow10 is 10^n; not to be changed.
func pow10(n int64) *big.Int {
	if n < int64(len(powers)) {
		return powers[n]
	}
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil)
}

// decimalType converts between Decimal and the two's complement bytes of Avro's decimal logical type.
var decimalType = avro.NewCustomType("decimal",
	func(d Decimal, node *avro.SchemaNode) ([]byte, error) {
		n, err := unscaled(d, int64(node.Precision), int64(node.Scale))
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
