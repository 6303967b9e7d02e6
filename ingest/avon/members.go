package avon

import (
	"slices"

	"github.com/counterfoil/counterfoil/schemas"
)

// operation is the name of the request DTO, list that of its only member.
const (
	operation = "FinancialTransactionsBatchCreate"
	list      = "FinancialTransactions"
)

// member is a member of a transaction.
type member struct {
	name  string
	field string                           // in our schema, as reasons have it
	at    func(t *schemas.Transaction) any // a **string, **schemas.Decimal or **time.Time
}

// members are those of a transaction, in the contract's order. In JSON, JSV and CSV the first letter is small, and case does not matter.
var members = [...]member{
	{"BeeNumberCustomer", "bee_number_customer", func(t *schemas.Transaction) any { return &t.BeeNumberCustomer }},
	{"TransactionCode", "transaction_code", func(t *schemas.Transaction) any { return &t.TransactionCode }},
	{"TransactionBIDSCode", "transaction_bids_code", func(t *schemas.Transaction) any { return &t.TransactionBIDSCode }},
	{"TransactionAmount", "transaction_amount", func(t *schemas.Transaction) any { return &t.TransactionAmount }},
	{"TransactionBillSeq", "transaction_bill_seq", func(t *schemas.Transaction) any { return &t.TransactionBillSeq }},
	{"TransactionTime", "transaction_time", func(t *schemas.Transaction) any { return &t.TransactionTime }},
	{"TransactionId", "transaction_id", func(t *schemas.Transaction) any { return &t.TransactionID }},
	{"Campaign", "campaign", func(t *schemas.Transaction) any { return &t.Campaign }},
	{"OrderNumber", "order_number", func(t *schemas.Transaction) any { return &t.OrderNumber }},
	{"InvoiceNumber", "invoice_number", func(t *schemas.Transaction) any { return &t.InvoiceNumber }},
	{"RetailSalesAmount", "retail_sales_amount", func(t *schemas.Transaction) any { return &t.RetailSalesAmount }},
	{"FederalTaxAmount1", "federal_tax_amount_1", func(t *schemas.Transaction) any { return &t.FederalTaxAmount1 }},
	{"FederalTaxAmount2", "federal_tax_amount_2", func(t *schemas.Transaction) any { return &t.FederalTaxAmount2 }},
	{"LocalTaxAmount", "local_tax_amount", func(t *schemas.Transaction) any { return &t.LocalTaxAmount }},
	{"PaymentAmount", "payment_amount", func(t *schemas.Transaction) any { return &t.PaymentAmount }},
	{"CustomerPrice", "customer_price", func(t *schemas.Transaction) any { return &t.CustomerPrice }},
	{"FreeAmount", "free_amount", func(t *schemas.Transaction) any { return &t.FreeAmount }},
	{"BonusAmount", "bonus_amount", func(t *schemas.Transaction) any { return &t.BonusAmount }},
	{"DiscountPercentage", "discount_percentage", func(t *schemas.Transaction) any { return &t.DiscountPercentage }},
	{"CustomerCount", "customer_count", func(t *schemas.Transaction) any { return &t.CustomerCount }},
	{"PricePromotionCode", "price_promotion_code", func(t *schemas.Transaction) any { return &t.PricePromotionCode }},
	{"AccountType", "account_type", func(t *schemas.Transaction) any { return &t.AccountType }},
	{"State", "state", func(t *schemas.Transaction) any { return &t.State }},
	{"TaxArea", "tax_area", func(t *schemas.Transaction) any { return &t.TaxArea }},
	{"TaxRate", "tax_rate", func(t *schemas.Transaction) any { return &t.TaxRate }},
	{"TaxIndicator", "tax_indicator", func(t *schemas.Transaction) any { return &t.TaxIndicator }},
	{"NetSalesAmount", "net_sales_amount", func(t *schemas.Transaction) any { return &t.NetSalesAmount }},
	{"CurrentBalance", "current_balance", func(t *schemas.Transaction) any { return &t.CurrentBalance }},
}

// places are those of members, by their names in small letters.
var places = func() map[string]int {
	m := map[string]int{}
	for i := range members {
		m[string(appendLower(nil, members[i].name))] = i
	}
	return m
}()

// maxName is longer than any member's name.
const maxName = 32

// placeOf finds a member by its name in any case; -1: there is none.
func placeOf(name string) int {
	if len(name) > maxName {
		return -1
	}
	var lower [maxName]byte
	if i, ok := places[string(appendLower(lower[:0], name))]; ok {
		return i
	}
	return -1
}

// appendLower makes ASCII letters small. The members' names have no others, and .NET compares names by their bytes otherwise.
func appendLower(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

// placeOfField finds a member by our name of it.
func placeOfField(field string) int {
	return slices.IndexFunc(members[:], func(m member) bool { return m.field == field })
}
