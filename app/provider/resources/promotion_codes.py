"""Promotion codes at Stripe: from the text a buyer types to the id Stripe takes."""

from typing import TYPE_CHECKING

from app.errors import InvalidRequestError
from app.provider.mapping.checkout import map_id
from app.provider.resources.resource import Kind, StripeResource
from app.provider.stripe_client import Blame

if TYPE_CHECKING:
    from stripe.params import PromotionCodeListParams


PROMOTION_CODE = Kind("/v1/promotion_codes", map_id)

CODE_BLAME = Blame(params={"code": "promotion_code"})


class StripePromotionCodes(StripeResource):
    async def find_promotion_code(self, text: str) -> str:
        params: PromotionCodeListParams = {"code": text, "active": True, "limit": 1}
        found = await self._list(PROMOTION_CODE, params, blame=CODE_BLAME)
        if not found:
            raise InvalidRequestError("There is no such promotion code.", param="promotion_code")
        return found[0]
