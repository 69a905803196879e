"""The SFT set: `choose` picks it, `page` lets people judge its candidates, `reviews` keeps what they decided."""
