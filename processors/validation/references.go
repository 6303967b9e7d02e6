package validation

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/counterfoil/counterfoil/processors/internal/defects"
	"github.com/counterfoil/counterfoil/schemas"
)

// Limits of the buying report's partner, in characters.
const (
	maxAccountNumber = 10
	maxPartNumber    = 50
)

// classified are the kinds of events that have classifications.
var classified = []string{
	schemas.EventAchievement, schemas.EventPurchase, schemas.EventReferral, schemas.EventSocialMedia, schemas.EventWeb,
	schemas.EventFinancialAchievement, schemas.EventFinancialStatement,
}

// CheckRecord returns all defects of a record of a reference or fact topic; nil when it may be kept. value is a pointer to the topic's Go type,
// such as *[schemas.Account] of accounts; any other panics. It needs nothing but the record: whether what a record points to exists is not
// asked, because records may come in any order.
//
// Own ids are mandatory and have at most 1,000 characters; so are the names and numbers that a record is found by. Every text can be kept and
// shown, instants and days lie in the range that ClickHouse keeps, decimals fit.
func CheckRecord(topic string, value any) []schemas.Reason {
	var c checker
	switch r := value.(type) {
	case *schemas.Account:
		c.Name("id", &r.ID)
		c.Name("number", &r.Number)
		c.Short("name", r.Name)
		c.names("payment_medium_types", r.PaymentMediumTypes)
		c.names("payment_medium_brands", r.PaymentMediumBrands)
	case *schemas.Participant:
		c.Name("id", &r.ID)
		c.Name("number", &r.Number)
		c.Short("account_id", r.AccountID)
	case *schemas.Unit:
		c.named(r.ID, r.Name, r.AlternativeCode)
		c.Short("currency_id", r.CurrencyID)
		c.Short("currency_code", r.CurrencyCode)
	case *schemas.Classification:
		c.named(r.ID, r.Name, r.AlternativeCode)
		switch {
		case r.Kind == "":
			c.Missing("kind")
		case !slices.Contains(classified, r.Kind):
			c.Add(schemas.CodeInvalid, "kind", defects.Value(r.Kind), "is "+defects.Quote(r.Kind)+"; it must be one of "+strings.Join(classified, ", ")+".")
		}
	case *schemas.Product:
		c.Name("id", &r.ID)
		c.Name("code", &r.Code)
		c.Short("alternative_code", r.AlternativeCode)
		c.Text("description", r.Description)
		c.names("barcodes", &r.Barcodes)
	case *schemas.PaymentMediumType:
		c.named(r.ID, r.Name, r.AlternativeCode)
	case *schemas.PaymentMediumBrand:
		c.named(r.ID, r.Name, r.AlternativeCode)
	case *schemas.KPI:
		c.named(r.ID, r.Name, r.AlternativeCode)
	case *schemas.Invoice:
		c.Name("id", &r.ID)
		c.Short("number", r.Number)
		c.Short("reference_number", r.ReferenceNumber)
		c.Short("back_office_code", r.BackOfficeCode)
	case *schemas.Customer:
		c.customerID("id", r.ID)
		c.atMost("account_number", r.AccountNumber, maxAccountNumber)
		c.Short("name", r.Name)
	case *schemas.CustomerPart:
		c.customerID("customer", r.Customer)
		c.Name("product", &r.Product)
		if strings.TrimSpace(r.PartNumber) == "" {
			c.Name("part_number", &r.PartNumber)
		} else {
			c.atMost("part_number", &r.PartNumber, maxPartNumber)
		}
	case *schemas.APIKey:
		c.Name("id", &r.ID)
		c.Name("tenant", &r.Tenant)
		if strings.Contains(r.Tenant, "/") {
			c.Add(schemas.CodeInvalid, "tenant", defects.Value(r.Tenant), "contains a slash, which ends the tenant in a record's key.")
		}
		c.Text("note", &r.Note)
		c.Instant("created_at", &r.CreatedAt)
	case *schemas.Call:
		c.call(r)
	case *schemas.OrderLine:
		c.Name("id", &r.ID)
		c.Short("order_number", r.OrderNumber)
		c.customerID("customer", r.Customer)
		c.Name("product", &r.Product)
		c.Decimal("quantity", &r.Quantity)
		c.Instant("ordered_on", &r.OrderedOn)
	case *schemas.InvoiceLine:
		c.Name("id", &r.ID)
		c.Short("invoice_number", r.InvoiceNumber)
		c.Short("order_number", r.OrderNumber)
		c.customerID("customer", r.Customer)
		c.Name("product", &r.Product)
		c.Decimal("quantity", &r.Quantity)
		c.Instant("invoiced_on", &r.InvoicedOn)
	case *schemas.Stock:
		c.Name("product", &r.Product)
		c.Decimal("available_now", &r.AvailableNow)
		c.Decimal("physical", r.Physical)
		c.Instant("next_available_on", r.NextAvailableOn)
		c.Decimal("next_available_quantity", r.NextAvailableQuantity)
	default:
		panic(fmt.Sprintf("validation: %T is no record of %s", value, topic))
	}
	return c.Reasons()
}

func (c *checker) call(r *schemas.Call) {
	c.Name("id", &r.ID)
	c.Instant("started_at", &r.StartedAt)
	c.Short("caller_number", r.CallerNumber)
	c.Short("mhid", r.MHID)
	c.Short("visitor_id", r.VisitorID)
	c.Short("service_number", r.ServiceNumber)
	c.Short("terminating_number", r.TerminatingNumber)
	c.Text("campaign", r.Campaign)
	c.Text("source", r.Source)
	c.Text("medium", r.Medium)
	c.Text("keyword", r.Keyword)
	c.Text("first_source", r.FirstSource)
	c.Text("first_medium", r.FirstMedium)
	c.Text("first_keyword", r.FirstKeyword)
	c.Text("google_click_id", r.GoogleClickID)
	c.Text("google_client_id", r.GoogleClientID)
	c.Text("media_channel", r.MediaChannel)
	c.Text("media_owner", r.MediaOwner)
	c.Text("media_description", r.MediaDescription)
	c.Text("department", r.Department)
	for i := range r.Tags {
		c.In("tags", i)
		c.Text("", &r.Tags[i])
	}
	c.Out()
	c.Text("call_ref", r.CallRef)
	c.Text("page_uri", r.PageURI)
	c.Text("page_title", r.PageTitle)
	c.Text("landing_page_uri", r.LandingPageURI)
	c.Text("landing_page_title", r.LandingPageTitle)
}

// customerID checks the id of a customer: the buying report's partner sends 0 for none.
func (c *checker) customerID(field string, id int64) {
	if id <= 0 {
		c.Add(schemas.CodeOutOfRange, field, nil, fmt.Sprintf("is %d; it must be at least 1.", id))
	}
}

func (c *checker) named(id, name string, code *string) {
	c.Name("id", &id)
	c.Name("name", &name)
	c.Short("alternative_code", code)
}

// names checks a list of texts that name something.
func (c *checker) names(field string, list *[]string) {
	if list == nil {
		return
	}
	for i := range *list {
		c.In(field, i)
		c.Name("", &(*list)[i])
	}
	c.Out()
}

func (c *checker) atMost(field string, s *string, most int) {
	if s == nil {
		return
	}
	if n := utf8.RuneCountInString(*s); n > most {
		c.Add(schemas.CodeOutOfRange, field, defects.Value(*s), fmt.Sprintf("has %d characters; at most %d are allowed.", n, most))
		return
	}
	c.Text(field, s)
}
