package reference

import "github.com/counterfoil/counterfoil/schemas"

// View is the tables as they are while it is held: no record is applied until [View.Release]. Hold it for a round, not longer. Look-ups
// take the tenant, the identifier's member name and its value as sent; nil means not found. What they return must not be changed.
type View struct{ t *Tables }

// Hold returns a view. It must be released.
func (t *Tables) Hold() View {
	t.mu.RLock()
	return View{t}
}

// Release lets the tables move on.
func (v View) Release() { v.t.mu.RUnlock() }

// Account finds an account by id, number or name.
func (v View) Account(tenant, field, value string) *schemas.Account {
	return v.t.indexes.accounts.find(tenant, field, value)
}

// Participant finds a rewards participant by id or number.
func (v View) Participant(tenant, field, value string) *schemas.Participant {
	return v.t.indexes.participants.find(tenant, field, value)
}

// Unit finds a unit by id, name or alternative_code.
func (v View) Unit(tenant, field, value string) *schemas.Unit {
	return v.t.indexes.units.find(tenant, field, value)
}

// Classification finds a classification by id, name or alternative_code.
func (v View) Classification(tenant, field, value string) *schemas.Classification {
	return v.t.indexes.classifications.find(tenant, field, value)
}

// Product finds a product by id, code or alternative_code.
func (v View) Product(tenant, field, value string) *schemas.Product {
	return v.t.indexes.products.find(tenant, field, value)
}

// PaymentMediumType finds a payment medium type by id, name or alternative_code.
func (v View) PaymentMediumType(tenant, field, value string) *schemas.PaymentMediumType {
	return v.t.indexes.paymentMediumTypes.find(tenant, field, value)
}

// PaymentMediumBrand finds a payment medium brand by id, name or alternative_code.
func (v View) PaymentMediumBrand(tenant, field, value string) *schemas.PaymentMediumBrand {
	return v.t.indexes.paymentMediumBrands.find(tenant, field, value)
}

// KPI finds a key performance indicator by id, name or alternative_code.
func (v View) KPI(tenant, field, value string) *schemas.KPI {
	return v.t.indexes.kpis.find(tenant, field, value)
}

// Invoice finds an invoice by id, number, reference_number or back_office_code.
func (v View) Invoice(tenant, field, value string) *schemas.Invoice {
	return v.t.indexes.invoices.find(tenant, field, value)
}

// APIKey finds a key by its id, whatever its tenant; nil: there is none. Unlike the other identifiers it is case-sensitive.
func (t *Tables) APIKey(id string) *schemas.APIKey {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.indexes.apiKeys.find("", "id", id)
}
