package schemas

import "time"

// Transaction is the item of the kind transactions: a financial transaction. Any member may be absent. Its decimals are [TransactionPrecision]
// and [TransactionScale], which hold every .NET decimal exactly; TransactionTime has nanoseconds.
type Transaction struct {
	BeeNumberCustomer   *Decimal   `avro:"bee_number_customer"`
	TransactionCode     *string    `avro:"transaction_code"`
	TransactionBIDSCode *string    `avro:"transaction_bids_code"`
	TransactionAmount   *Decimal   `avro:"transaction_amount"`
	TransactionBillSeq  *string    `avro:"transaction_bill_seq"`
	TransactionTime     *time.Time `avro:"transaction_time"`
	TransactionID       *string    `avro:"transaction_id"`
	Campaign            *string    `avro:"campaign"`
	OrderNumber         *string    `avro:"order_number"`
	InvoiceNumber       *string    `avro:"invoice_number"`
	RetailSalesAmount   *Decimal   `avro:"retail_sales_amount"`
	FederalTaxAmount1   *Decimal   `avro:"federal_tax_amount_1"`
	FederalTaxAmount2   *Decimal   `avro:"federal_tax_amount_2"`
	LocalTaxAmount      *Decimal   `avro:"local_tax_amount"`
	PaymentAmount       *Decimal   `avro:"payment_amount"`
	CustomerPrice       *Decimal   `avro:"customer_price"`
	FreeAmount          *Decimal   `avro:"free_amount"`
	BonusAmount         *Decimal   `avro:"bonus_amount"`
	DiscountPercentage  *Decimal   `avro:"discount_percentage"`
	CustomerCount       *Decimal   `avro:"customer_count"`
	PricePromotionCode  *string    `avro:"price_promotion_code"`
	AccountType         *string    `avro:"account_type"`
	State               *string    `avro:"state"`
	TaxArea             *string    `avro:"tax_area"`
	TaxRate             *Decimal   `avro:"tax_rate"`
	TaxIndicator        *string    `avro:"tax_indicator"`
	NetSalesAmount      *Decimal   `avro:"net_sales_amount"`
	CurrentBalance      *Decimal   `avro:"current_balance"`
}

// TransactionResult is the head of a transaction's outcome: all of [TransactionProcessed] but the item.
type TransactionResult struct{ Outcome }

// TransactionProcessed is the value of transactions.processed.
type TransactionProcessed struct {
	TransactionResult
	Item Transaction `avro:"item"`
}
