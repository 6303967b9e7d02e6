package validation

import (
	"math/big"

	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// CheckTransaction returns all defects of a financial transaction; nil when it is processed: nothing is mandatory, nothing is looked up
// and nothing is remembered, so that this is all the judging there is. What would not survive is a defect: a text that is not UTF-8 or has a
// NUL, an instant out of range, an amount that is no .NET decimal, which is what the partner's type is.
//
// Fields are the members' names; codes are invalid (texts) and out_of_range (the others).
func CheckTransaction(t *schemas.Transaction) []schemas.Reason {
	var c checker
	c.netDecimal("bee_number_customer", t.BeeNumberCustomer)
	c.Text("transaction_code", t.TransactionCode)
	c.Text("transaction_bids_code", t.TransactionBIDSCode)
	c.netDecimal("transaction_amount", t.TransactionAmount)
	c.Text("transaction_bill_seq", t.TransactionBillSeq)
	c.Instant("transaction_time", t.TransactionTime)
	c.Text("transaction_id", t.TransactionID)
	c.Text("campaign", t.Campaign)
	c.Text("order_number", t.OrderNumber)
	c.Text("invoice_number", t.InvoiceNumber)
	c.netDecimal("retail_sales_amount", t.RetailSalesAmount)
	c.netDecimal("federal_tax_amount_1", t.FederalTaxAmount1)
	c.netDecimal("federal_tax_amount_2", t.FederalTaxAmount2)
	c.netDecimal("local_tax_amount", t.LocalTaxAmount)
	c.netDecimal("payment_amount", t.PaymentAmount)
	c.netDecimal("customer_price", t.CustomerPrice)
	c.netDecimal("free_amount", t.FreeAmount)
	c.netDecimal("bonus_amount", t.BonusAmount)
	c.netDecimal("discount_percentage", t.DiscountPercentage)
	c.netDecimal("customer_count", t.CustomerCount)
	c.Text("price_promotion_code", t.PricePromotionCode)
	c.Text("account_type", t.AccountType)
	c.Text("state", t.State)
	c.Text("tax_area", t.TaxArea)
	c.netDecimal("tax_rate", t.TaxRate)
	c.Text("tax_indicator", t.TaxIndicator)
	c.netDecimal("net_sales_amount", t.NetSalesAmount)
	c.netDecimal("current_balance", t.CurrentBalance)
	return c.Reasons()
}

// A .NET decimal is an integer below 2^96 in magnitude, over a power of ten from 0 to netScale.
const (
	netScale    = 28
	netMantissa = 96 // bits
)

// netBounds[e] are the first values of exponent -e that are beyond the range.
var netBounds = func() (all [netScale + 1]struct{ lower, upper schemas.Decimal }) {
	limit := new(big.Int).Lsh(big.NewInt(1), netMantissa)
	for e := range all {
		upper := decimal.NewFromBigInt(limit, int32(-e))
		all[e].lower, all[e].upper = upper.Neg(), upper
	}
	return all
}()

func (c *checker) netDecimal(field string, d *schemas.Decimal) {
	if d != nil && !isNetDecimal(*d) {
		// The value is not shown: 1e999999999 as digits would fill the memory.
		c.Add(schemas.CodeOutOfRange, field, nil, "must be a .NET decimal: at most 28 digits after the point, and all digits together, "+
			"without the point, at most 79228162514264337593543950335.")
	}
}

// isNetDecimal reports whether d is exactly a .NET decimal. The work does not grow with the exponent.
func isNetDecimal(d schemas.Decimal) bool {
	exp := int(d.Exponent())
	if exp <= 0 && exp >= -netScale {
		// Nearly every amount is decided here, without a copy: decimals of the same exponent are compared as they are.
		if b := &netBounds[-exp]; d.Cmp(b.lower) > 0 && d.Cmp(b.upper) < 0 {
			return true
		}
	}
	if d.Sign() == 0 {
		return true
	}
	switch {
	case exp > netScale, exp < -2*netScale: // 10^29 is beyond the range; nobody writes that many zeros
		return false
	case exp > 0:
		n := d.Coefficient()
		return n.Mul(n, pow10(exp)).BitLen() <= netMantissa
	}
	// Zeros at its end are worth nothing: a record has as many digits after the point as its schema, 28.
	n := d.Coefficient()
	if n.BitLen() > netMantissa-4*exp { // of n, as it is, the range allows less than 2^96 × 10^-exp
		return false
	}
	var rest big.Int
	quotient := new(big.Int)
	for exp < -netScale || exp < 0 && n.BitLen() > netMantissa {
		if quotient.QuoRem(n, ten, &rest); rest.Sign() != 0 {
			return false
		}
		n, quotient = quotient, n
		exp++
	}
	return n.BitLen() <= netMantissa
}

var ten = big.NewInt(10)

func pow10(n int) *big.Int { return new(big.Int).Exp(ten, big.NewInt(int64(n)), nil) }
